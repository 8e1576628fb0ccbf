"""The WAL ledger: a side file that knows which write-ahead logs must be there, lest a hole be opened.

The idea. RocksDB opens silently when an older WAL file is gone (tried), and it takes some damage for a torn
tail: a flipped length in a record's head drops everything behind it. So after every sync one small entry
says what is now durable: the WAL files with their lengths, up to which number RocksDB has deleted them, and
how many batches had been written. At opening the entry is held against what is there.

What lies between the last entry and the end is not synced, and a power cut may take any part of it: also the
tail of an older WAL, and leave the newer one. RocksDB opens such a hole (tried). So every batch also leaves
its number in a ring of rows (rocks_survey.py); from the entry's count to the newest number none may be
missing.

Why it never refuses wrongly. Everything in an entry is read *before* the sync that it vouches for, so it is
never ahead of the disk; it may be behind, because it has no fsync of its own. RocksDB deletes a WAL only
after its MANIFEST durably says that recovery does not need it any more. So a WAL that the entry names and
that is gone is damage only if its number is at or above what the *MANIFEST* says is needed; and if the
MANIFEST asks for a WAL that RocksDB had deleted, the MANIFEST has lost its end. That number, and the count
of batches, come from opening the database read-only first, which changes nothing.

Torn writes. Two slots of one page each are overwritten in turn, each with a checksum; the newest sound one
counts. The first entry is synced when the store is made, so a sound one is always there later: if both are
unsound, something other than a power cut did it. The file also carries the lock of the directory, because
the check must run under a lock and RocksDB's own comes only with opening.

Rejected: RocksDB's `track_and_verify_wals_in_manifest` (not in the binding, and it does not track the live
WAL); file plus rename (a directory entry per 20 ms and shard, and wants an fsync to be safe on every file
system); RocksDB's sequence number instead of a count of our own (after a family is dropped it can be lower
at the next start: tried); its property `min-log-number-to-keep` instead of watching what it deletes (on a
new database it was seen ahead of the MANIFEST). The entry names the `seen` generations too: a MANIFEST that
loses its end forgets a family, and RocksDB then leaves out that family's rows in the WAL without a word.
"""

import fcntl
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Self
from zlib import crc32

import msgspec
from msgspec import msgpack

from schemas.errors import DamagedStore, DirectoryInUse

LEDGER_FILE = "wal.ledger"
WalLengths = Sequence[tuple[int, int]]

RING_ROWS = 4_096
"""How many of the newest batches leave their numbers; some hundreds are written between two syncs."""
_MAGIC = b"HWL1"
_SLOT_BYTES = 4096
_SLOTS = 2
_HEAD_BYTES = len(_MAGIC) + 4 + 2
# An entry with this many files fits a slot; RocksDB keeps a handful. Leaving out the oldest only weakens
# the check.
_WALS_MAX = 200
_WAL_SUFFIX = ".log"


class LedgerEntry(msgspec.Struct, frozen=True, array_like=True):
    """What is durable.

    Attributes:
        number: counts the entries.
        wal_floor: RocksDB has deleted WALs below this number.
        batches: how many batches the store had taken.
        wals: number and length in bytes of every WAL file.
        chained_from: the first batch whose number is in the ring; 0 in a store that is older than the ring.
        generations: the `seen` generations that must be there.
    """

    number: int
    wal_floor: int
    batches: int
    wals: tuple[tuple[int, int], ...]
    chained_from: int = 0
    generations: tuple[int, ...] = ()

    def unsynced(self, batches: int) -> range:
        """Returns the batches that are there and were not synced by this entry, as far as the ring knows.

        Args:
            batches: the count of batches, as read with the WAL replayed.
        """
        if self.chained_from == 0:
            return range(0)
        return range(max(self.batches + 1, self.chained_from, batches + 1 - RING_ROWS), batches + 1)

    def hole(
        self, found: WalLengths, wal_needed_min: int, batches: int, generations: Collection[int]
    ) -> str | None:
        """Returns what is missing of this entry, in words; None when nothing is.

        Args:
            found: the WAL files that are there now.
            wal_needed_min: the oldest WAL that recovery needs, as the MANIFEST says now.
            batches: the count of batches, as read with the WAL replayed.
            generations: the `seen` generations that the MANIFEST knows.
        """
        lengths = dict(found)
        for wal, length in self.wals:
            if wal < wal_needed_min or length == 0:
                continue
            name = f"write-ahead log {wal:06d}{_WAL_SUFFIX}"
            if wal not in lengths:
                return f"{name} is missing ({length} bytes of it were synced)"
            if lengths[wal] < length:
                return f"{name} has {lengths[wal]} bytes, {length} of it were synced"
        if wal_needed_min < self.wal_floor:
            return f"the MANIFEST has lost its end: it asks for log {wal_needed_min}, not {self.wal_floor}"
        if batches < self.batches:
            return f"{self.batches} batches were synced, only {batches} are left"
        if lost := sorted(set(self.generations).difference(generations)):
            return f"the MANIFEST has lost its end: `seen` generation {lost[0]} is missing"
        return None


class WalLedger:
    """An open ledger, which is also the lock of its store's directory."""

    def __init__(self, path: Path, descriptor: int, last: LedgerEntry | None) -> None:
        self._path = path
        self._descriptor = descriptor
        self.last = last

    @classmethod
    def open(cls, path: Path, *, may_create: bool) -> Self:
        """Opens and locks a ledger.

        Args:
            path: the file.
            may_create: whether it may be new; false when the store beside it is not.

        Raises:
            DirectoryInUse: somebody has it open.
            DamagedStore: it is missing or unreadable.
            OSError: the file system says no.
        """
        if not may_create and not path.exists():
            raise DamagedStore(
                f"{path} is missing, so nobody can tell whether {path.parent} is whole; restore the whole "
                f"directory or move it aside"
            )
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, path)
            if may_create and os.fstat(descriptor).st_size < _SLOTS * _SLOT_BYTES:
                _make_durable(descriptor, path)
            return cls(path, descriptor, _newest(descriptor, path))
        except BaseException:
            os.close(descriptor)
            raise

    def record(
        self,
        batches: int,
        wals: WalLengths,
        *,
        chained_from: int = 0,
        generations: Iterable[int] = (),
        is_synced: bool = False,
    ) -> None:
        """Writes an entry over the older slot.

        Args:
            batches: see LedgerEntry; like the lengths read before the sync that has just ended.
            wals: see LedgerEntry; oldest first.
            chained_from, generations: see LedgerEntry.
            is_synced: wait for the disk (when a store is made, or its generations change; otherwise a lost
                entry costs nothing).

        Raises:
            OSError: the file system says no.
        """
        number, floor = 1, 0
        if self.last is not None:
            deleted = {wal for wal, _ in self.last.wals}.difference(wal for wal, _ in wals)
            number = self.last.number + 1
            floor = max(self.last.wal_floor, max(deleted, default=-1) + 1)
        entry = LedgerEntry(
            number, floor, batches, tuple(wals[-_WALS_MAX:]), chained_from, tuple(sorted(generations))
        )
        payload = msgpack.encode(entry)
        slot = _MAGIC + crc32(payload).to_bytes(4, "big") + len(payload).to_bytes(2, "big") + payload
        os.pwrite(self._descriptor, slot, number % _SLOTS * _SLOT_BYTES)
        if is_synced:
            os.fsync(self._descriptor)
        self.last = entry

    def close(self) -> None:
        """Gives the lock away."""
        os.close(self._descriptor)


def wal_lengths(directory: Path) -> list[tuple[int, int]]:
    """Returns number and length of every WAL file in a directory, oldest first; none when it is not there.

    Raises:
        OSError: the file system says no.
    """
    found = []
    try:
        with os.scandir(directory) as listing:
            for file in listing:
                number, dot, suffix = file.name.partition(".")
                if dot + suffix == _WAL_SUFFIX and number.isdigit():
                    found.append((int(number), _length(file)))
    except FileNotFoundError:
        return []
    return sorted(wal for wal in found if wal[1] >= 0)


def _length(file: os.DirEntry[str]) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # RocksDB deleted it since the listing: then nobody needs it
        return -1


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DirectoryInUse(f"{path.parent} is open in another process; stop that one first") from error


def _make_durable(descriptor: int, path: Path) -> None:
    os.pwrite(descriptor, bytes(_SLOTS * _SLOT_BYTES), 0)
    os.fsync(descriptor)
    for directory in (path.parent, path.parent.parent):  # the file's name, and its directory's
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _newest(descriptor: int, path: Path) -> LedgerEntry | None:
    slots = [os.pread(descriptor, _SLOT_BYTES, slot * _SLOT_BYTES) for slot in range(_SLOTS)]
    if all(slot == bytes(_SLOT_BYTES) for slot in slots):
        return None
    sound = [entry for entry in map(_read, slots) if entry is not None]
    if not sound:
        raise DamagedStore(f"{path} is unreadable, so nobody can tell whether {path.parent} is whole")
    return max(sound, key=lambda entry: entry.number)


def _read(slot: bytes) -> LedgerEntry | None:
    length = int.from_bytes(slot[_HEAD_BYTES - 2 : _HEAD_BYTES], "big")
    payload = slot[_HEAD_BYTES : _HEAD_BYTES + length]
    if slot[: len(_MAGIC)] != _MAGIC or slot[len(_MAGIC) : len(_MAGIC) + 4] != crc32(payload).to_bytes(
        4, "big"
    ):
        return None
    return msgpack.decode(payload, type=LedgerEntry)
