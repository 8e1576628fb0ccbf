"""The RocksDB database under the local log: how it is tuned, opened, read and written, and its errors.

One database, one write-ahead log, several column families: a group commit is one atomic batch over records,
index and group positions. Atomic flush keeps the families of one age even after a crash between two flushes.

Recovery mode is `tolerate_corrupted_tail_records`: the default (point in time) opens silently after one
flipped byte with half of the acknowledged records gone (measured, research/reliability.md section 0). What
even this mode takes for a torn tail is caught by `local_chain`.

Memory is bounded: 64 MiB of memtables over all families, 32 MiB of block cache, and a WAL of 96 MiB before a
flush is forced, which also bounds the time that a restart needs (about a second).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rocksdict import (
    BlockBasedOptions,
    Cache,
    ColumnFamily,
    DbClosedError,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
)

from dataflows.connectors.rocks_failure import is_damage, is_disk_full
from schemas.errors import (
    DamagedStore,
    DirectoryInUse,
    DiskFull,
    HooktideError,
    LogUnavailable,
    StoreUnavailable,
)

_MIB = 1 << 20
WAL_BYTES_MAX = 96 * _MIB
OPEN_FILES_MAX = 64
"""Without a bound every table of a week stays open; readers go on in order, so few are read at a time."""
LATEST, GRAVES, GROUPS, COMMITS, META = "latest", "graves", "groups", "commits", "meta"
_FAMILIES = (LATEST, GRAVES, GROUPS, COMMITS, META)


class Database:
    """One open database. Any thread may read; only the commit thread writes.

    Args:
        path: RocksDB's own directory; made when it is not there.

    Raises:
        DirectoryInUse: another process, or this one, has it open.
        DamagedStore: RocksDB found damage that is not a torn tail.
        StoreUnavailable: it cannot be opened for another reason (permissions, disk).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        cache = Cache(32 * _MIB)
        try:
            self.records = Rdict(
                str(path),
                _options(cache, 32 * _MIB),
                column_families={name: _options(cache, 8 * _MIB) for name in _FAMILIES},
            )
        except Exception as error:  # rocksdict raises bare Exception
            raise translated(error, f"opening the log in {path}") from error
        self.families = {name: self.records.get_column_family(name) for name in _FAMILIES}
        self.handles: dict[str, ColumnFamily] = {
            name: self.records.get_column_family_handle(name) for name in _FAMILIES
        }

    def batch(self) -> WriteBatch:
        """Returns an empty batch of raw bytes."""
        return WriteBatch(raw_mode=True)

    def write(self, batch: WriteBatch) -> None:
        """Applies the batch atomically and waits for the fsync.

        Raises:
            LogUnavailable: not known to be durable (disk full, I/O error).
        """
        try:
            self.records.write(batch)
            self._sync()
        except Exception as error:
            raise translated(error, f"writing the log in {self._path}", writing=True) from error

    def _sync(self) -> None:
        # Not by the write's own option: rocksdict holds the GIL in `write`, and every thread of the process
        # would stand still until the disk has answered. It lets it go here.
        self.records.flush_wal(sync=True)

    def scan(self, start: bytes, end: bytes, family: str | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yields the rows with start <= key < end, in order.

        Two traps of rocksdict 0.3.29, both tried. Its iterator does not keep the options alive, and RocksDB
        would compare with freed memory (it runs past the bound, or stops early): this generator's frame keeps
        them. And it ends at a damaged block as it ends at the end, without an error: when it ends, the cursor
        that can be asked for its status looks at the same place.

        Raises:
            DamagedStore: a block does not read back as it was written.
        """
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(end)
        source = self.records if family is None else self.families[family]
        try:
            rows: Any = source.items(from_key=start, read_opt=bounds)
            following = start
            for row in rows:
                yield row
                following = row[0] + b"\0"
            cursor = source.iter(bounds)
            cursor.seek(following)
            cursor.status()
        except Exception as error:
            raise translated(error, f"reading the log in {self._path}") from error

    def first(self, start: bytes, end: bytes) -> tuple[bytes, bytes] | None:
        """Returns the first record row with start <= key < end.

        Raises:
            DamagedStore: as `scan`.
        """
        return next(self.scan(start, end), None)

    def last(self, start: bytes, end: bytes) -> tuple[bytes, bytes] | None:
        """Returns the last record row with start <= key < end.

        No lower bound is set: rocksdict 0.3.29 takes `set_iterate_lower_bound` for the upper one (tried).

        Raises:
            DamagedStore: as `scan`.
        """
        try:
            cursor = self.records.iter()
            cursor.seek_for_prev(end)
            if cursor.valid() and cursor.key() == end:
                cursor.prev()
            cursor.status()
            found = (cursor.key(), cursor.value()) if cursor.valid() else None
        except Exception as error:
            raise translated(error, f"reading the log in {self._path}") from error
        return None if found is None or found[0] < start else found

    def compact(self, start: bytes, end: bytes) -> None:
        """Gives the space of deleted records between two keys back to the file system."""
        try:
            self.records.compact_range(start, end)
        except Exception as error:
            raise translated(error, f"compacting the log in {self._path}") from error

    def close(self) -> None:
        """Flushes and frees everything, the directory's lock too.

        Raises:
            StoreUnavailable: the flush failed; what was acknowledged is in the write-ahead log.
        """
        self.handles.clear()  # each handle keeps the database open, and so locked
        failure: Exception | None = None
        for opened in (*self.families.values(), self.records):  # each flushes, and each has to be freed
            try:
                opened.close()
            except Exception as error:  # noqa: BLE001 - rocksdict raises nothing narrower
                failure = failure or error
        self.families.clear()
        if failure is not None:
            raise translated(failure, f"closing the log in {self._path}") from failure


def translated(error: Exception, doing: str, *, writing: bool = False) -> HooktideError:
    """Returns what an exception of rocksdict means for us.

    Args:
        error: rocksdict raises bare `Exception` with RocksDB's words; they begin with a status name.
        doing: what we tried, with the path.
        writing: a failed write means LogUnavailable: it may or may not have happened.
    """
    words = str(error)
    if isinstance(error, DbClosedError):
        return LogUnavailable(f"{doing}: the log is closed")
    if is_damage(words):
        return DamagedStore(
            f"{doing}: it is damaged ({words}), and there is no second copy of it. Restore a backup of the "
            f"whole "
            "data directory, or move it away and start with an empty one"
        )
    if is_disk_full(words):
        return DiskFull(f"{doing}: {words}. What was being written may or may not be there")
    if writing:
        return LogUnavailable(
            f"{doing}: {words}. What was being written may or may not be there; see to the disk, then restart"
        )
    if "/LOCK" in words and "lock" in words.lower():
        return DirectoryInUse(f"{doing}: another process has it open; stop that one first ({words})")
    return StoreUnavailable(f"{doing}: {words}")


def _options(cache: Cache, write_buffer_bytes: int) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_bloom_filter(10, block_based=False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)  # noqa: FBT003 - the binding's setters take their value by position
    options.create_missing_column_families(True)  # noqa: FBT003 - as above
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_atomic_flush(True)
    options.set_paranoid_checks(True)
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    options.set_db_write_buffer_size(64 * _MIB)
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_zero_file_num_compaction_trigger(
        8
    )  # sequential keys: few reads gain from early merging
    options.set_max_bytes_for_level_base(256 * _MIB)
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_keep_log_file_num(4)  # RocksDB's own information log
    options.set_max_log_file_size(4 * _MIB)
    return options
