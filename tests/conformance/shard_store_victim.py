"""A process that writes to a shard store until it is killed.

`python -m tests.conformance.shard_store_victim DIRECTORY [MEMTABLE_BYTES]`

Batch number n puts row n into every family and takes row n - KEPT away, in one batch over all of them; every
GENERATION_ROWS batches a `seen` generation comes and an old one goes. The memtables are tiny and another
thread syncs all the time, so flushes, deleted WAL files and ledger entries fall between any two batches. What
was written is told on standard output, one number per line.
"""

import sys
from pathlib import Path
from threading import Event, Thread

from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.rocks_options import StoreMemory
from operators.shard.store_port import Family, ShardStore

KEPT = 40
GENERATION_ROWS = 150
GENERATIONS = 3
LAST = b"last"


def open_store(directory: Path, memtable_bytes: int = 16 * 1024) -> ShardStore:
    """Opens the store as the victim does."""
    return RocksStore.open(
        directory, shard=1, shard_count=8, memory=StoreMemory(memtable_bytes=memtable_bytes)
    )


def key_of(number: int) -> bytes:
    """Returns the key of row `number`, in every family."""
    return number.to_bytes(4, "big")


def write_batch(store: ShardStore, number: int) -> None:
    """Writes batch `number` (from 0)."""
    generation = number // GENERATION_ROWS
    if number % GENERATION_ROWS == 0:
        store.add_generation(generation)
        if generation >= GENERATIONS:
            store.drop_generation(generation - GENERATIONS)
    batch = store.batch()
    batch.put(Family.META, LAST, key_of(number))
    for family in (Family.PENDING, Family.READY, Family.DUE, Family.OUTBOX):
        batch.put(family, key_of(number), bytes(400))
    if number >= KEPT:
        batch.delete(Family.PENDING, key_of(number - KEPT))
        batch.delete(Family.READY, key_of(number - KEPT))
        batch.delete(Family.DUE, key_of(number - KEPT))
        batch.delete_range(Family.OUTBOX, key_of(0), key_of(number - KEPT + 1))
    batch.put_seen(generation, key_of(number), b"")
    store.write(batch)


def check(store: ShardStore) -> int:
    """Asserts that the store holds a whole prefix of the batches; returns the last one's number, or -1."""
    last = store.get(Family.META, LAST)
    if last is None:
        for family in (Family.PENDING, Family.READY, Family.DUE, Family.OUTBOX):
            assert list(store.scan_all(family)) == []
        return -1
    number = int.from_bytes(last, "big")
    rows = [key_of(row) for row in range(max(0, number - KEPT + 1), number + 1)]
    for family in (Family.PENDING, Family.READY, Family.DUE, Family.OUTBOX):
        assert [key for key, _ in store.scan_all(family)] == rows, family
    for generation in store.generations():
        first = generation * GENERATION_ROWS
        expected = [key_of(row) for row in range(first, min(first + GENERATION_ROWS, number + 1))]
        assert store.get_seen(generation, expected) == [b""] * len(expected), generation
        assert store.get_seen(generation, [key_of(number + 1)]) == [None]
    return number


def main() -> None:
    """Writes until killed."""
    store = open_store(Path(sys.argv[1]), *map(int, sys.argv[2:]))
    stopping = Event()

    def keep_syncing() -> None:
        while not stopping.wait(0.001):
            store.sync()

    Thread(target=keep_syncing, daemon=True).start()
    number = check(store) + 1
    while True:
        write_batch(store, number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1


if __name__ == "__main__":
    main()
