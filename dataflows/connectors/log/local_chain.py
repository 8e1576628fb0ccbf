"""The chain of group commits: how a missing piece of the log is noticed when it is opened.

RocksDB checks what it reads, not what is absent: with one write-ahead log file deleted it opens silently, and
a flipped length byte near the end of the newest one reads as a torn tail, which takes acknowledged records
with it. A log without second copy must not open with a hole, so two things are kept:

- Every group commit writes its number into the family `commits`, in the same batch. When the log is opened,
  the numbers must follow each other: a gap is a lost file.
- After the fsync and before the acknowledgement, the number goes into the side file `acknowledged`, without
  an fsync of its own: it survives a kill of the process, and after a power cut it can only be too low, never
  too high. When the log is opened, the newest number must have reached it: less is a cut tail.

Numbers whose records are in table files (RocksDB refuses by itself when one of those is missing) are trimmed:
all of them at opening, because recovery flushes, and while running those with more than twice the largest
write-ahead log behind them.

Rejected: naming the live WAL files and their lengths in the side file: RocksDB deletes such files by itself,
so a crash between its deletion and our note would look like damage.
"""

import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from rocksdict import ColumnFamily, WriteBatch

from dataflows.connectors.data_directory import create_private_file
from dataflows.connectors.log import local_database
from dataflows.connectors.log.local_keys import pack_u64
from schemas.errors import DamagedStore, StoreUnavailable

_TRIM_EVERY = 1_024
_KEEP_BYTES = 2 * local_database.WAL_BYTES_MAX
_NOTE_BYTES = 12


class Chain:
    """Numbers the group commits. Owned by the commit thread, after opening.

    Args:
        database: the log's database, just opened.
        note: path of the side file; made when it is not there, and then nothing is known to be acknowledged.

    Raises:
        DamagedStore: a commit is missing in the middle, or at the end although it was acknowledged.
        StoreUnavailable: the side file cannot be written.
    """

    def __init__(self, database: local_database.Database, note: Path) -> None:
        self._database = database
        self.number = _newest(database, note)
        self._trimmed = 0
        self._bytes = 0
        self._samples: deque[tuple[int, int]] = deque()
        if not note.exists():
            # Whole or not at all: half a note, after a power cut, would be refused as damage. It also syncs
            # the names beside it, of which RocksDB's own directory is one; nobody else does that.
            create_private_file(note, _encoded(self.number))
        try:
            self._note = os.open(note, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise StoreUnavailable(f"the file {note} cannot be opened: {error}") from error
        self.acknowledged()

    def link(self, batch: WriteBatch) -> None:
        """Adds the next number to a batch. Call `acknowledged` once the batch is durable.

        A batch that failed leaves its number to the next one, as it leaves its offsets.
        """
        following = self.number + 1
        handle = self._database.handles[local_database.COMMITS]
        if self._trimmed == 0:  # the first batch after opening: everything older is in table files
            batch.delete_range(pack_u64(0), pack_u64(following), handle)
        elif following % _TRIM_EVERY == 0:
            self._trim(batch, handle, following)
        batch.put(pack_u64(following), b"", handle)
        self._bytes += batch.size_in_bytes()

    def linked(self) -> None:
        """Counts the batch that `link` was called for: it is durable."""
        self.number += 1
        if self._trimmed == 0:
            self._trimmed = self.number
        self.acknowledged()

    def acknowledged(self) -> None:
        """Notes that everything up to `number` may be acknowledged."""
        with suppress(OSError):  # the commit itself is durable; a note that is too low only notices less
            os.pwrite(self._note, _encoded(self.number), 0)

    def close(self) -> None:
        """Syncs and closes the side file."""
        os.fsync(self._note)
        os.close(self._note)

    def _trim(self, batch: WriteBatch, handle: ColumnFamily, following: int) -> None:
        self._samples.append((following, self._bytes))
        upto = self._trimmed
        while self._samples and self._samples[0][1] < self._bytes - _KEEP_BYTES:
            upto = self._samples.popleft()[0]
        if upto > self._trimmed:
            batch.delete_range(pack_u64(self._trimmed), pack_u64(upto), handle)
            self._trimmed = upto


def _newest(database: local_database.Database, note: Path) -> int:
    newest = 0
    for key, _ in database.scan(pack_u64(0), b"\xff" * 9, local_database.COMMITS):
        number = int.from_bytes(key, "big")
        if newest and number != newest + 1:
            raise DamagedStore(
                f"the log beside {note} has a hole: group commit {newest + 1} to {number - 1} are missing (a "
                f"deleted "
                "write-ahead log file?). There is no second copy: restore a backup of the whole data "
                "directory"
            )
        newest = number
    acknowledged = _read_note(note)
    if acknowledged > newest:
        raise DamagedStore(
            f"the log beside {note} ends at group commit {newest}, but {acknowledged} was acknowledged: its "
            f"tail was "
            "cut or damaged. There is no second copy: restore a backup of the whole data directory, or, to "
            "go on "
            "knowingly without the missing records, delete that file"
        )
    return newest


def _encoded(number: int) -> bytes:
    packed = pack_u64(number)
    return packed + crc32(packed).to_bytes(4, "big")


def _read_note(note: Path) -> int:
    try:
        raw = note.read_bytes()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StoreUnavailable(f"the file {note} cannot be read: {error}") from error
    if not raw:  # made, and the power went before the first number reached the disk
        return 0
    number = int.from_bytes(raw[:8], "big")
    if len(raw) != _NOTE_BYTES or raw != _encoded(number):
        raise DamagedStore(
            f"the file {note} is damaged: it says how far the log was acknowledged. Restore a backup, or "
            f"delete it to "
            "go on knowingly with what the log still holds"
        )
    return number
