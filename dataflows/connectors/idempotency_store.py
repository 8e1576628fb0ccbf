"""The answers that keyed requests got, kept for a day: a memory, not an authority.

A key names one event for ever, whoever asks and whatever is remembered here: the event's id is derived from
the key, and the shard drops a delivery it has seen. So losing this store costs no duplicate; it only means
that a repeat is appended once more, and that another body under the same key is found later, by the shard.
That decides everything below: no sync on writing (a process kill loses nothing, a power cut a few
milliseconds), and a damaged store is set aside and begun anew, because refusing to start would cost more
than it protects.

One column family per hour of writing, dropped whole when its last row is too old; a look-up asks the newest
first, and an hour that does not have the key costs about 1 us (bloom filter). Rejected: RocksDB's TTL mode
(it acts at compaction only, and the values carry its bytes); a dict (lost at every restart, and unbounded).
"""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import structlog
from rocksdict import Rdict

from dataflows.connectors.rocks_failure import translated
from dataflows.connectors.shard_store.rocks_options import MIB, StoreMemory, database_options, seen_options
from schemas.errors import DamagedStore, HooktideError, StoreUnavailable

_log = structlog.get_logger(__name__)

_HOUR_MS = 3_600_000
_OPEN_FILES_MAX = 20
"""The fewest that RocksDB takes: a look-up opens a table again at worst, and a kept answer is no hot path."""
_FAMILY = "answers."
_VERSION = b"\x01"
_TIME_BYTES = 8
_DAMAGED_SUFFIX = ".damaged"


class Remembered(NamedTuple):
    """What the first request with a key came to.

    Attributes:
        body_digest: up to 255 bytes; another digest under the same key is another request.
        answer: the answer's body.
        at_ms: when it was given, milliseconds UTC.
    """

    body_digest: bytes
    answer: bytes
    at_ms: int


class IdempotencyStore:
    """An open store; used by one thread.

    Args:
        directory: its own; need not exist.
        kept_hours: how long an answer is found.

    Raises:
        DirectoryInUse: somebody has it open.
        StoreUnavailable: the file system says no.
    """

    def __init__(self, directory: Path, *, kept_hours: int = 24) -> None:
        self._directory = directory
        self._kept_ms = kept_hours * _HOUR_MS
        self._hours_max = kept_hours + 2
        self._memory = StoreMemory(
            cache_bytes=8 * MIB,
            memtable_bytes_max=32 * MIB,
            memtable_bytes=4 * MIB,
            open_files_max=_OPEN_FILES_MAX,
        )
        self._is_open = True
        try:
            self._database = self._open()
        except DamagedStore as damage:
            aside = directory.with_name(directory.name + _DAMAGED_SUFFIX)
            _log.warning("idempotency_store_is_damaged", set_aside=str(aside), why=str(damage))
            self._set_aside(aside)
            self._database = self._open()
        self._hours = {hour: self._database.get_column_family(_name(hour)) for hour in self._hours_found}

    def recall(self, tenant_id: str, key: str, now_ms: int) -> Remembered | None:
        """Returns what was remembered under a tenant's key, unless it is too old.

        Raises:
            DamagedStore: it cannot be read.
        """
        row = _row_key(tenant_id, key)
        try:
            for hour in sorted(self._hours, reverse=True):
                value: bytes | None = self._hours[hour].get(row)
                if value is not None:
                    found = _decode(value)
                    return found if found is not None and found.at_ms > now_ms - self._kept_ms else None
        except Exception as error:
            raise self._failure(error, "reading") from error
        return None

    def remember(self, tenant_id: str, key: str, what: Remembered) -> None:
        """Keeps an answer. Once an hour this makes a family and drops the ones too old, in about 10 ms.

        Raises:
            StoreUnavailable: it is not kept (disk full).
        """
        hour = what.at_ms // _HOUR_MS
        try:
            if hour not in self._hours:
                self._drop_old(what.at_ms)
                self._hours[hour] = self._database.create_column_family(
                    _name(hour), seen_options(self._memory)
                )
            self._hours[hour].put(_row_key(tenant_id, key), _encode(what))
        except Exception as error:
            raise self._failure(error, "writing to") from error

    def close(self) -> None:
        """Frees everything; a second close does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self._database.cancel_all_background(wait=True)  # what was written is in the WAL: nothing to flush
        self._hours.clear()
        with suppress(Exception):  # says that background work was stopped
            self._database.close()

    def _open(self) -> Rdict:
        path = str(self._directory)
        options = database_options(self._memory, self._directory / "wal")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            is_made = (self._directory / "CURRENT").exists()
            names = Rdict.list_cf(path, options) if is_made else []
            self._hours_found = [
                int(name.removeprefix(_FAMILY)) for name in names if name.startswith(_FAMILY)
            ]
            families = {_name(hour): seen_options(self._memory) for hour in self._hours_found}
            return Rdict(path, options, column_families=families)
        except Exception as error:
            raise self._failure(error, "opening") from error

    def _set_aside(self, aside: Path) -> None:
        try:
            shutil.rmtree(aside, ignore_errors=True)  # one damaged copy is enough to look into
            self._directory.rename(aside)
        except OSError as error:
            raise StoreUnavailable(f"setting {self._directory} aside, which is damaged: {error}") from error

    def _drop_old(self, now_ms: int) -> None:
        too_old = [hour for hour in self._hours if (hour + 1) * _HOUR_MS <= now_ms - self._kept_ms]
        left = sorted(set(self._hours).difference(too_old), reverse=True)
        for hour in [*too_old, *left[self._hours_max - 1 :]]:  # a clock that jumps makes no heap of hours
            dropped = self._hours.pop(hour)
            self._database.drop_column_family(_name(hour))
            del dropped  # only now: a reader that goes flushes its family, and this one is gone

    def _failure(self, error: Exception, doing: str) -> HooktideError:
        return translated(error, f"{doing} the idempotency store", self._directory)


def _name(hour: int) -> str:
    return f"{_FAMILY}{hour}"


def _row_key(tenant_id: str, key: str) -> bytes:
    tenant = tenant_id.encode()
    return len(tenant).to_bytes(2, "big") + tenant + key.encode()


def _encode(what: Remembered) -> bytes:
    head = _VERSION + what.at_ms.to_bytes(_TIME_BYTES, "big") + bytes((len(what.body_digest),))
    return head + what.body_digest + what.answer


def _decode(value: bytes) -> Remembered | None:
    """Returns what a row says; None when another release wrote it in another version."""
    if not value.startswith(_VERSION):
        return None
    at = len(_VERSION) + _TIME_BYTES
    end = at + 1 + value[at]
    return Remembered(value[at + 1 : end], value[end:], int.from_bytes(value[len(_VERSION) : at], "big"))
