"""The shard store in memory, for unit tests and the simulator: the same answers, and disasters on request.

A family is a dict and a sorted list of its keys. That is slower than a tree at a million rows, and right at a
glance, which matters more here: the conformance suite holds it against RocksDB.

Disasters. A process kill loses nothing written (`crash` only invalidates the batches that were being
gathered). A power cut keeps everything up to the last sync and any number of whole batches after it
(`lose_unsynced`); which number is the caller's chance. Adding and dropping generations is durable at once,
as in RocksDB. A copy (`copy`, `restore`) is what a backup would hold.

Power cuts are played by taking batches back: every batch since the last sync leaves behind what it replaced.
Rejected: copying all rows at every sync (the simulator syncs every 20 virtual milliseconds).
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import NamedTuple, Self

from dataflows.connectors.shard_store.store_identity import StoreIdentity
from operators.shard.store_port import Batch, Family

_DEFAULT_STORE_ID = "0" * 32
_PAGE_ROWS = 1_000

_Table = Family | int  # a fixed family, or the number of a `seen` generation
_Undo = list[tuple[_Table, bytes, bytes | None]]


class _Put(NamedTuple):
    table: _Table
    key: bytes
    value: bytes


class _Delete(NamedTuple):
    table: _Table
    key: bytes


class _DeleteRange(NamedTuple):
    table: _Table
    start: bytes
    end: bytes


class MemoryBatch:
    """One atomic change, as the list of its steps."""

    __slots__ = ("_generations", "drops", "life", "steps")

    def __init__(self, generations: dict[int, "_Rows"], life: int, drops: int) -> None:
        self.steps: list[_Put | _Delete | _DeleteRange] | None = []
        self.life = life
        self.drops = drops
        self._generations = generations

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        """Sets a row."""
        self._add(_Put(family, key, value))

    def delete(self, family: Family, key: bytes) -> None:
        """Deletes a row; one that is not there is no error."""
        self._add(_Delete(family, key))

    def delete_range(self, family: Family, start: bytes, end: bytes) -> None:
        """Deletes the rows with start <= key < end; none when end is not after start."""
        self._add(_DeleteRange(family, start, end))

    def put_seen(self, generation: int, key: bytes, value: bytes) -> None:
        """Sets a row of a `seen` generation that was added before."""
        self._generations[
            generation
        ]  # as RocksDB: an unknown generation is a KeyError here, not at the write
        self._add(_Put(generation, key, value))

    def delete_seen(self, generation: int, key: bytes) -> None:
        """Deletes a row of a `seen` generation."""
        self._generations[generation]
        self._add(_Delete(generation, key))

    def _add(self, step: _Put | _Delete | _DeleteRange) -> None:
        assert self.steps is not None, "a batch is written once"
        self.steps.append(step)


class MemoryStore:
    """A ShardStore that forgets everything with the process, or whatever a test wants it to forget.

    Args:
        shard: 0 <= shard < shard_count.
        shard_count: the number of shards.
        store_id: names it; another directory's store needs another one.
    """

    def __init__(self, *, shard: int = 0, shard_count: int = 1, store_id: str = _DEFAULT_STORE_ID) -> None:
        self._identity = StoreIdentity(store_id, shard, shard_count)
        self._families = {family: _Rows() for family in Family}
        self._generations: dict[int, _Rows] = {}
        self._unsynced: list[_Undo] = []
        self._life = 0
        self._drops = 0
        self._is_open = True
        for key, value in self._identity.rows():
            self._families[Family.META].put(key, value)

    @property
    def store_id(self) -> str:
        """Names this store for ever."""
        return self._identity.store_id

    def batch(self) -> MemoryBatch:
        """Returns an empty batch. It is written once, and not across the dropping of a generation."""
        return MemoryBatch(self._generations, self._life, self._drops)

    def write(self, batch: Batch) -> None:
        """Applies a batch atomically; it is used up."""
        assert self._is_open, "the store is closed"
        assert isinstance(batch, MemoryBatch), "a batch goes to the kind of store that made it"
        assert batch.life == self._life, "this batch was begun before the crash"
        assert batch.drops == self._drops, "a generation was dropped after this batch was begun"
        steps, batch.steps = batch.steps, None
        assert steps is not None, "a batch is written once"
        undo: _Undo = []
        for step in steps:
            rows = self._rows(step.table)
            match step:
                case _Put(table, key, value):
                    undo.append((table, key, rows.put(key, value)))
                case _Delete(table, key):
                    undo.append((table, key, rows.delete(key)))
                case _DeleteRange(table, start, end):
                    undo += [(table, key, rows.delete(key)) for key in rows.keys_between(start, end)]
        self._unsynced.append(undo)

    def get(self, family: Family, key: bytes) -> bytes | None:
        """Returns a row's value."""
        return self._read(family).values.get(key)

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the rows' values in the order of the keys."""
        values = self._read(family).values
        return [values.get(key) for key in keys]

    def scan(self, family: Family, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns up to `limit` rows with start <= key < end, in key order."""
        rows = self._read(family)
        return [(key, rows.values[key]) for key in rows.keys_between(start, end, limit)]

    def seek(self, family: Family, start: bytes) -> bytes | None:
        """Returns the first key at or after `start`, or None; for skipping over prefixes."""
        found = self._read(family).keys_from(start, 1)
        return found[0] if found else None

    def generations(self) -> list[int]:
        """Returns the numbers of the `seen` generations, newest (highest) first."""
        return sorted(self._generations, reverse=True)

    def add_generation(self, number: int) -> None:
        """Makes a new generation; one that exists is no error. Durable at once."""
        assert self._is_open, "the store is closed"
        assert number >= 0, f"a generation's number is not negative, got {number}"
        self._generations.setdefault(number, _Rows())

    def drop_generation(self, number: int) -> None:
        """Drops a whole generation at once; one that is not there is no error. Durable at once."""
        assert self._is_open, "the store is closed"
        if self._generations.pop(number, None) is None:
            return
        self._drops += 1
        self._unsynced = [[undo for undo in batch if undo[0] != number] for batch in self._unsynced]

    def get_seen(self, generation: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the rows' values in one generation."""
        values = self._read(generation).values
        return [values.get(key) for key in keys]

    def scan_all(self, family: Family) -> Iterator[tuple[bytes, bytes]]:
        """Yields every row of a family in key order, page by page, as RocksDB's store does."""
        start = b""
        while keys := self._read(family).keys_from(start, _PAGE_ROWS):
            values = self._read(family).values
            yield from [(key, values[key]) for key in keys]
            start = keys[-1] + b"\0"

    def sync(self) -> None:
        """Makes everything written so far survive a power cut."""
        self._unsynced.clear()

    def close(self) -> None:
        """Syncs and closes; a second close does nothing."""
        self.sync()
        self._is_open = False

    def reopen(self) -> None:
        """Opens it again, as the next process would."""
        self.crash()
        self._is_open = True

    def crash(self) -> None:
        """Kills the process: what was written stays, the batches being gathered are gone."""
        self._life += 1

    @property
    def unsynced_batch_count(self) -> int:
        """How many batches a power cut may take."""
        return len(self._unsynced)

    def lose_unsynced(self, kept_batch_count: int = 0) -> None:
        """Cuts the power: of the batches since the last sync only the first few are left.

        Args:
            kept_batch_count: how many of them had reached the disk, 0 to `unsynced_batch_count`.
        """
        assert 0 <= kept_batch_count <= len(self._unsynced), "no more batches than there are"
        while len(self._unsynced) > kept_batch_count:
            for table, key, value in reversed(self._unsynced.pop()):
                rows = self._rows(table)
                if value is None:
                    rows.delete(key)
                else:
                    rows.put(key, value)
        self._unsynced.clear()  # what survived the cut is on the disk
        self.crash()

    def after_power_cut(self, kept_batch_count: int = 0) -> Self:
        """Returns the store that the next process finds after a power cut; this one stays as it is."""
        found = self.copy()
        found.lose_unsynced(kept_batch_count)
        return found

    def copy(self) -> Self:
        """Returns a store of its own with the same id and rows, as a backup would hold it."""
        return deepcopy(self)

    def restore(self, backup: Self) -> None:
        """Puts a copy in place of everything, all of it synced, as restoring a backup does."""
        life = self._life
        vars(self).update(vars(backup.copy()))
        self._unsynced.clear()
        self._life = life
        self.crash()

    def _rows(self, table: _Table) -> "_Rows":
        return self._families[table] if isinstance(table, Family) else self._generations[table]

    def _read(self, table: _Table) -> "_Rows":
        assert self._is_open, "the store is closed"
        return self._rows(table)


class _Rows:
    """One family: the values, and the keys in order."""

    __slots__ = ("_keys", "values")

    def __init__(self, values: dict[bytes, bytes] | None = None) -> None:
        self.values = dict(values or {})
        self._keys = sorted(self.values)

    def put(self, key: bytes, value: bytes) -> bytes | None:
        """Sets a row; returns what it replaced."""
        before = self.values.get(key)
        if before is None:
            insort(self._keys, key)
        self.values[key] = value
        return before

    def delete(self, key: bytes) -> bytes | None:
        """Deletes a row; returns what it was."""
        before = self.values.pop(key, None)
        if before is not None:
            del self._keys[bisect_left(self._keys, key)]
        return before

    def keys_from(self, start: bytes, limit: int) -> list[bytes]:
        """Returns up to `limit` keys at or after `start`."""
        first = bisect_left(self._keys, start)
        return self._keys[first : first + limit]

    def keys_between(self, start: bytes, end: bytes, limit: int | None = None) -> list[bytes]:
        """Returns up to `limit` keys with start <= key < end."""
        first = bisect_left(self._keys, start)
        last = bisect_left(self._keys, end)
        return self._keys[first : last if limit is None else min(last, first + max(limit, 0))]
