"""The shard store on RocksDB: one directory per shard, one batch over all column families.

Why RocksDB: ordered rows, one atomic batch over many families, a whole family dropped in milliseconds, and
the data may be larger than memory. What its Python binding (rocksdict 0.3.29) asks for in return:

- It loses errors in its own iterators: `items()` ends quietly at a damaged block (tried: 288 of 20,000
  rows, no error). So every scan here steps a raw iterator and asks for its status at the end.
- A `delete_range` whose end lies before its start fails *and leaves the database refusing every later
  write* (tried). Such a range is empty, and is left out.
- Whoever drops a family's reader flushes that one family alone. Background work is stopped before the
  readers go, so that such a flush does nothing, and what was written is in the synced WAL.
- It holds the GIL in `write` and single `get`s, but lets it go in `flush_wal` and in a `get` of a list. The
  sync therefore disturbs nobody, and many keys are read one by one: beside a busy event loop thread,
  getting the GIL back costs more than a list saves (500 misses: 0.7 ms one by one, 1.2 ms as a list).

A row of the default family counts the batches, and a ring of rows holds the numbers of the newest. The WAL
ledger (wal_ledger.py) vouches for that count and for the WAL files; at opening the directory is first read
without changing it, and refused when something synced is missing, or something in the middle.

Damage met later (a flipped bit in a table that nobody read since it was written; RocksDB checks each block as
it reads it, also in compactions) leaves a file `damaged` in the directory: the process ends, and the next
opening refuses what might look whole to it. Rejected: reading every table at each opening (slow, and a bit
may flip a second later).

Rejected: prefix iterators kept open (they pin memtables and the lock); TTL mode (acts only at compaction).
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Self

from rocksdict import ColumnFamily, Rdict, ReadOptions, WriteBatch

from dataflows.connectors.data_directory import create_private_file
from dataflows.connectors.rocks_failure import translated
from dataflows.connectors.shard_store.rocks_options import (
    StoreMemory,
    database_options,
    family_options,
    seen_options,
)
from dataflows.connectors.shard_store.rocks_survey import (
    BATCHES_KEY,
    COUNT_BYTES,
    CURRENT_FILE,
    DAMAGE_FILE,
    SEEN_PREFIX,
    WAL_DIRECTORY,
    batch_count,
    check_empty,
    check_unmarked,
    check_whole,
    ring_key,
)
from dataflows.connectors.shard_store.store_identity import StoreIdentity, read_identity
from dataflows.connectors.shard_store.wal_ledger import LEDGER_FILE, WalLedger, wal_lengths
from operators.shard.store_port import Batch, Family
from schemas.errors import DamagedShard, DamagedStore, HooktideError, StoreUnavailable

_PAGE_ROWS = 1_000


class RocksBatch:
    """One atomic change, gathered in RocksDB's own batch; nothing is copied on the way."""

    __slots__ = ("_delete", "_delete_range", "_handles", "_put", "_seen", "drops", "raw")

    def __init__(
        self, handles: dict[Family, ColumnFamily], seen: dict[int, ColumnFamily], drops: int
    ) -> None:
        raw = WriteBatch(raw_mode=True)
        self.raw: WriteBatch | None = raw
        self.drops = drops
        self._put = raw.put
        self._delete = raw.delete
        self._delete_range = raw.delete_range
        self._handles = handles
        self._seen = seen

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        """Sets a row."""
        self._put(key, value, self._handles[family])

    def delete(self, family: Family, key: bytes) -> None:
        """Deletes a row; one that is not there is no error."""
        self._delete(key, self._handles[family])

    def delete_range(self, family: Family, start: bytes, end: bytes) -> None:
        """Deletes the rows with start <= key < end; none when end is not after start."""
        if start < end:
            self._delete_range(start, end, self._handles[family])

    def put_seen(self, generation: int, key: bytes, value: bytes) -> None:
        """Sets a row of a `seen` generation that was added before."""
        self._put(key, value, self._seen[generation])

    def delete_seen(self, generation: int, key: bytes) -> None:
        """Deletes a row of a `seen` generation."""
        self._delete(key, self._seen[generation])


class RocksStore:
    """One shard's directory, opened and locked. One thread at a time; `sync` from any thread."""

    def __init__(self, directory: Path, database: Rdict, memory: StoreMemory, ledger: WalLedger) -> None:
        self._directory = directory
        self._database = database
        self._memory = memory
        self._ledger = ledger
        self._readers = {family: database.get_column_family(family.value) for family in Family}
        self._handles = {family: database.get_column_family_handle(family.value) for family in Family}
        self._seen_readers: dict[int, Rdict] = {}
        self._seen_handles: dict[int, ColumnFamily] = {}
        self._drops = 0
        self._syncing = Lock()
        self._is_open = True
        self._batches = batch_count(database.get(BATCHES_KEY))
        self._batches_synced = -1
        self._chained_from = (ledger.last.chained_from if ledger.last else 0) or self._batches + 1
        self._store_id = ""
        self._generations_noted: tuple[int, ...] = ()

    @classmethod
    def open(
        cls, directory: Path, *, shard: int, shard_count: int, memory: StoreMemory | None = None
    ) -> Self:
        """Opens a shard's directory, or makes it.

        Args:
            directory: need not exist.
            shard: 0 <= shard < shard_count.
            shard_count: must be what the directory was made with.
            memory: what the shards of this process share; its own when there is none.

        Raises:
            DirectoryInUse: another process, or this one, has it open.
            FormatMismatch: it was made for another shard, another number of shards, or by a newer version.
            DamagedStore: something that was synced is missing or damaged.
            StoreUnavailable: the file system says no.
        """
        memory = memory or StoreMemory()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            is_made = (directory / CURRENT_FILE).exists()
            ledger = WalLedger.open(directory / LEDGER_FILE, may_create=not is_made)
        except OSError as error:
            raise translated(error, "opening the shard store", directory) from error
        try:
            check_unmarked(directory)
            if is_made:
                generations = check_whole(directory, ledger, memory, shard, shard_count)
            else:
                check_empty(directory, ledger)
                generations = []
            return cls._open(directory, ledger, memory, generations, (shard, shard_count))
        except BaseException:
            ledger.close()
            raise

    @classmethod
    def _open(
        cls,
        directory: Path,
        ledger: WalLedger,
        memory: StoreMemory,
        generations: list[int],
        made_for: tuple[int, int],
    ) -> Self:
        families = {family.value: family_options(memory) for family in Family}
        families |= {f"{SEEN_PREFIX}{number}": seen_options(memory) for number in generations}
        try:
            database = Rdict(
                str(directory), database_options(memory, directory / WAL_DIRECTORY), column_families=families
            )
            store = cls(directory, database, memory, ledger)
            for number in generations:
                store._hold_generation(number)
        except Exception as error:
            raise translated(error, "opening the shard store", directory) from error
        try:
            store._settle_identity(*made_for)
        except BaseException:
            store._free()
            raise
        return store

    @property
    def store_id(self) -> str:
        """Names this directory for ever (made when it was created)."""
        return self._store_id

    def batch(self) -> RocksBatch:
        """Returns an empty batch. It is written once, and not across the dropping of a generation."""
        return RocksBatch(self._handles, self._seen_handles, self._drops)

    def write(self, batch: Batch) -> None:
        """Applies a batch atomically; it is used up, also when this fails.

        Raises:
            StoreUnavailable: nothing was applied. RocksDB takes no further write until the store is opened
                again.
        """
        assert isinstance(batch, RocksBatch), "a batch goes to the kind of store that made it"
        raw, batch.raw = batch.raw, None
        assert raw is not None, "a batch is written once"
        # RocksDB would put the batch into its log, fail on the missing family, and refuse every later write.
        assert batch.drops == self._drops, "a generation was dropped after this batch was begun"
        written = self._batches + 1
        try:
            number = written.to_bytes(COUNT_BYTES, "big")
            raw.put(BATCHES_KEY, number)
            raw.put(ring_key(written), number)
            self._database.write(raw)
        except Exception as error:
            raise self._failure(error, "writing to") from error
        self._batches = written

    def get(self, family: Family, key: bytes) -> bytes | None:
        """Returns a row's value."""
        return self._get_each(self._readers[family], (key,))[0]

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the rows' values in the order of the keys."""
        return self._get_each(self._readers[family], keys)

    def scan(self, family: Family, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns up to `limit` rows with start <= key < end, in key order."""
        if start >= end:
            return []
        # The bound also keeps RocksDB from walking over the tombstones behind it.
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(end)
        return self._step(family, start, limit, bounds)

    def seek(self, family: Family, start: bytes) -> bytes | None:
        """Returns the first key at or after `start`, or None; for skipping over prefixes."""
        try:
            rows = self._readers[family].iter()
            rows.seek(start)
            key: bytes | None = rows.key()
            if key is None:
                rows.status()
        except Exception as error:
            raise self._failure(error, "reading") from error
        return key

    def generations(self) -> list[int]:
        """Returns the numbers of the `seen` generations, newest (highest) first."""
        return sorted(self._seen_handles, reverse=True)

    def add_generation(self, number: int) -> None:
        """Makes a new generation; one that exists is no error. Durable at once, in about 5 ms."""
        assert number >= 0, f"a generation's number is not negative, got {number}"
        if number in self._seen_handles:
            return
        try:
            self._database.create_column_family(f"{SEEN_PREFIX}{number}", seen_options(self._memory))
            self._hold_generation(number)
            self._note_generations()
        except Exception as error:
            raise self._failure(error, "adding a generation to") from error

    def drop_generation(self, number: int) -> None:
        """Drops a whole generation at once; one that is not there is no error. Takes about 4 ms."""
        if number not in self._seen_handles:
            return
        self._drops += 1
        del self._seen_handles[number]
        reader = self._seen_readers.pop(number)
        try:
            self._note_generations()  # before it goes, or a crash in between would look like damage
            self._database.drop_column_family(f"{SEEN_PREFIX}{number}")
            del reader  # only now: a reader that goes flushes its family, and this one is gone
        except Exception as error:
            raise self._failure(error, "dropping a generation of") from error

    def get_seen(self, generation: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the rows' values in one generation. A miss costs about 1 us."""
        return self._get_each(self._seen_readers[generation], keys)

    def scan_all(self, family: Family) -> Iterator[tuple[bytes, bytes]]:
        """Yields every row of a family in key order, page by page: no iterator stays open between rows."""
        start = b""
        while page := self._step(family, start, _PAGE_ROWS, None):
            yield from page
            start = page[-1][0] + b"\0"

    def sync(self) -> None:
        """Makes everything written so far survive a power cut; costs nothing when that is nothing new.

        Raises:
            StoreUnavailable: it is not known to be durable.
        """
        with self._syncing:
            if self._is_open:
                self._sync()

    def close(self) -> None:
        """Syncs and frees everything, the lock too. A second close does nothing.

        Raises:
            StoreUnavailable: the last sync failed; everything is freed all the same.
        """
        with self._syncing:
            if not self._is_open:
                return
            try:
                self._sync()
            finally:
                self._free()
                self._ledger.close()

    def _sync(self, *, is_new: bool = False) -> None:
        batches = self._batches
        if batches == self._batches_synced:
            return
        try:
            wals = wal_lengths(self._directory / WAL_DIRECTORY)  # before the sync: never ahead of the disk
            self._database.flush_wal(sync=True)
            self._ledger.record(
                batches,
                wals,
                chained_from=self._chained_from,
                generations=self._generations_noted,
                is_synced=is_new,
            )
        except Exception as error:
            raise self._failure(error, "syncing") from error
        self._batches_synced = batches

    def _note_generations(self) -> None:
        """Has the ledger name the generations that there are now, durably."""
        with self._syncing:
            self._generations_noted = tuple(self._seen_handles)
            self._batches_synced = -1
            self._sync(is_new=True)

    def _settle_identity(self, shard: int, shard_count: int) -> None:
        where = f"the shard store in {self._directory}"
        found = read_identity(lambda key: self.get(Family.META, key), where)
        if found is None:
            found = StoreIdentity(secrets.token_hex(16), shard, shard_count)
            batch = self.batch()
            for key, value in found.rows():
                batch.put(Family.META, key, value)
            self.write(batch)
        self._store_id = found.store_id
        self._generations_noted = tuple(self._seen_handles)
        self._sync(is_new=self._ledger.last is None)

    def _hold_generation(self, number: int) -> None:
        name = f"{SEEN_PREFIX}{number}"
        self._seen_readers[number] = self._database.get_column_family(name)
        self._seen_handles[number] = self._database.get_column_family_handle(name)

    def _get_each(self, reader: Rdict, keys: Sequence[bytes]) -> list[bytes | None]:
        get: Callable[[bytes], bytes | None] = reader.get
        try:
            return [get(key) for key in keys]
        except Exception as error:
            raise self._failure(error, "reading") from error

    def _step(
        self, family: Family, start: bytes, limit: int, bounds: ReadOptions | None
    ) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        try:
            rows = self._readers[family].iter(bounds)
            rows.seek(start)
            key, value, step = rows.key, rows.value, rows.next
            while len(found) < limit and (at := key()) is not None:
                found.append((at, value()))
                step()
            rows.status()
        except Exception as error:
            raise self._failure(error, "reading") from error
        return found

    def _free(self) -> None:
        self._is_open = False
        self._database.cancel_all_background(wait=True)  # or each reader would flush its family alone
        self._handles.clear()
        self._seen_handles.clear()
        self._readers.clear()
        self._seen_readers.clear()
        with suppress(Exception):  # says that background work was stopped
            self._database.close()

    def _failure(self, error: Exception, doing: str) -> HooktideError:
        if isinstance(error, HooktideError):  # translated already
            return error
        failure = translated(error, f"{doing} the shard store", self._directory)
        if not isinstance(failure, DamagedStore):
            return failure
        with suppress(StoreUnavailable):  # then the next one that meets it says it again
            create_private_file(self._directory / DAMAGE_FILE, f"{failure}\n".encode())
        return DamagedShard(str(failure))
