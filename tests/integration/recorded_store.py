"""A shard store that remembers every batch it was given, so that any prefix of them can be played again."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from rocksdict import Rdict

from dataflows.connectors.shard_store.rocks import RocksBatch, RocksStore
from dataflows.connectors.shard_store.wal_ledger import wal_lengths
from operators.shard.store_port import Batch, Family

Table = Family | int  # a fixed family, or the number of a `seen` generation
Step = tuple[str, Table, bytes, bytes]  # what, where, key (or start), value (or end)
Tables = dict[Table, dict[bytes, bytes]]


class RecordedBatch:
    """A batch that remembers its steps."""

    def __init__(self, inner: RocksBatch) -> None:
        self.inner = inner
        self.steps: list[Step] = []

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        self.inner.put(family, key, value)
        self.steps.append(("put", family, key, value))

    def delete(self, family: Family, key: bytes) -> None:
        self.inner.delete(family, key)
        self.steps.append(("delete", family, key, b""))

    def delete_range(self, family: Family, start: bytes, end: bytes) -> None:
        self.inner.delete_range(family, start, end)
        self.steps.append(("range", family, start, end))

    def put_seen(self, generation: int, key: bytes, value: bytes) -> None:
        self.inner.put_seen(generation, key, value)
        self.steps.append(("put", generation, key, value))

    def delete_seen(self, generation: int, key: bytes) -> None:
        self.inner.delete_seen(generation, key)
        self.steps.append(("delete", generation, key, b""))


class RecordedStore:
    """A RocksStore that keeps every batch it was given, by number, and the WAL's length after each."""

    def __init__(self, inner: RocksStore, directory: Path) -> None:
        self.inner = inner
        self.batches: list[tuple[int, list[Step]]] = []
        self.wal_ends: list[tuple[int, int]] = []
        self.synced_batches = 0
        self._wal = directory / "wal"

    def batch(self) -> RecordedBatch:
        return RecordedBatch(self.inner.batch())

    def write(self, batch: Batch) -> None:
        assert isinstance(batch, RecordedBatch)
        self.inner.write(batch.inner)
        self.batches.append((self.inner._batches, batch.steps))
        self.wal_ends.append(wal_lengths(self._wal)[-1])

    def sync(self) -> None:
        self.inner.sync()
        self.synced_batches = self.inner._batches

    @property
    def store_id(self) -> str:
        return self.inner.store_id

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self.inner.get(family, key)

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.inner.get_many(family, keys)

    def scan(self, family: Family, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return self.inner.scan(family, start, end, limit)

    def seek(self, family: Family, start: bytes) -> bytes | None:
        return self.inner.seek(family, start)

    def generations(self) -> list[int]:
        return self.inner.generations()

    def add_generation(self, number: int) -> None:
        self.inner.add_generation(number)

    def drop_generation(self, number: int) -> None:
        self.inner.drop_generation(number)

    def get_seen(self, generation: int, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.inner.get_seen(generation, keys)

    def scan_all(self, family: Family) -> Iterator[tuple[bytes, bytes]]:
        return self.inner.scan_all(family)

    def close(self) -> None:
        self.inner.close()


def played(batches: Sequence[tuple[int, list[Step]]]) -> Tables:
    """Returns the rows that batches leave behind."""
    tables: Tables = defaultdict(dict)
    for _, steps in batches:
        for what, table, key, value in steps:
            rows = tables[table]
            if what == "put":
                rows[key] = value
            elif what == "delete":
                rows.pop(key, None)
            else:
                for inside in [row for row in rows if key <= row < value]:
                    del rows[inside]
    return tables


def rows_of(store: RocksStore) -> Tables | None:
    """Returns every row of a store, read from the outside; None when a block does not read."""
    tables: Tables = {}
    readers: list[tuple[Table, Rdict]] = [*store._readers.items(), *store._seen_readers.items()]
    for table, reader in readers:
        found: dict[bytes, bytes] = {}
        try:
            rows = reader.iter()
            rows.seek(b"")
            while (key := rows.key()) is not None:
                found[key] = rows.value()
                rows.next()
            rows.status()
        except Exception:  # noqa: BLE001 - rocksdict raises nothing narrower
            return None
        tables[table] = {key: value for key, value in found.items() if not key.startswith(b"_store.")}
    return tables
