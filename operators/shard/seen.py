"""What a shard remembers of delivery ids: exact rows in generations by the event's record time.

A generation covers four days of record time and is dropped whole when it lies more than eleven days behind
the newest record. Look-ups ask the newest generation first; a miss costs a bloom filter's look. Never a Bloom
filter
alone: its false positive would be a lost event.
"""

from collections.abc import Sequence

from operators.shard.policy import GENERATION_MS, SEEN_MS
from operators.shard.store_port import Batch, ShardStore
from schemas.delivery import Delivery
from schemas.wire.store_rows import SEEN_ROW, SeenRow


class Seen:
    """The `seen` family of one shard."""

    def __init__(self, store: ShardStore) -> None:
        self._store = store
        self._generations = store.generations()

    def look_up(self, delivery_ids: Sequence[str]) -> dict[str, SeenRow]:
        """Returns the rows of those ids that have one."""
        found: dict[str, SeenRow] = {}
        missing = [delivery_id.encode() for delivery_id in delivery_ids]
        for generation in self._generations:
            if not missing:
                break
            misses: list[bytes] = []
            for key, raw in zip(missing, self._store.get_seen(generation, missing), strict=True):
                if raw is None:
                    misses.append(key)
                else:
                    found[key.decode()] = SEEN_ROW.decode(raw)
            missing = misses
        return found

    def put(self, batch: Batch, delivery: Delivery, row: SeenRow) -> None:
        """Sets a delivery's row, in the generation of its event's record time."""
        self.put_by_time(batch, delivery.id, delivery.recorded_at_ms, row)

    def put_by_time(self, batch: Batch, delivery_id: str, recorded_at_ms: int, row: SeenRow) -> None:
        """Sets a row by its parts."""
        generation = max(recorded_at_ms, 0) // GENERATION_MS
        if generation not in self._generations:
            self._store.add_generation(generation)
            self._generations = self._store.generations()
        batch.put_seen(generation, delivery_id.encode(), SEEN_ROW.encode(row))

    def expire(self, highest_recorded_at_ms: int) -> list[int]:
        """Drops the generations that lie wholly before the reach of `seen`; returns their numbers."""
        oldest_needed = (highest_recorded_at_ms - SEEN_MS) // GENERATION_MS
        dropped = [generation for generation in self._generations if generation < oldest_needed]
        for generation in dropped:
            self._store.drop_generation(generation)
        if dropped:
            self._generations = self._store.generations()
        return dropped
