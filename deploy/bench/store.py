"""The shard store alone: a `seen` and an `outbox` row per delivery, in blocks, as `settle` writes them."""

from pathlib import Path

from dataflows.connectors.shard_store.rocks import RocksStore
from deploy.bench.figure import Figure, Meter
from operators.shard.store_port import Family
from schemas import ids
from schemas.wire import store_keys

BLOCK = 100
SEEN_BYTES, OUTBOX_BYTES = 70, 330
GENERATION = 1


def run(directory: Path, count: int) -> Figure:
    """Measures look-up and write of `count` deliveries in blocks of 100, with the trim of the outbox."""
    store = RocksStore.open(directory, shard=0, shard_count=1)
    store.add_generation(GENERATION)
    keys = [ids.delivery_id(f"evt_{number}", "ep").encode() for number in range(count)]
    seen, row = b"s" * SEEN_BYTES, b"o" * OUTBOX_BYTES
    meter = Meter()
    with meter.running():
        for start in range(0, count, BLOCK):
            block = keys[start : start + BLOCK]
            store.get_seen(GENERATION, block)
            batch = store.batch()
            for number, key in enumerate(block, start):
                batch.put(Family.OUTBOX, store_keys.outbox_key(number), row)
                batch.put_seen(GENERATION, key, seen)
            if start % 5_000 == 0:
                batch.delete_range(Family.OUTBOX, store_keys.outbox_key(0), store_keys.outbox_key(start))
            store.write(batch)
        store.sync()
    store.close()
    return meter.figure("store", f"blocks of {BLOCK}", count)
