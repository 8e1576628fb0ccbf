"""The barrier: once per epoch, whatever only memory holds goes to the store, with the position it stands for.

It waits for nothing. The WAL is synced in the background; the group's offset is mirrored after that sync.
"""

from msgspec.structs import replace

from operators.shard.accept import save_unsaved
from operators.shard.actions import BarrierMark
from operators.shard.outbox import OutboxProgress
from operators.shard.state import ShardState
from operators.shard.store_port import Family
from operators.suspicion import Phase
from schemas import topics
from schemas.wire import store_keys
from schemas.wire.store_rows import POSITION_ROW, PositionRow


class Barrier:
    """Writes the barriers of one shard."""

    def __init__(self, state: ShardState, outbox: OutboxProgress, last: PositionRow | None) -> None:
        self._state = state
        self._outbox = outbox
        self._last = last
        self._number = last.barrier if last is not None else 0
        self._trimmed = last.published_sequence if last is not None else 0

    def write(self, *, is_clean: bool = False) -> BarrierMark | None:
        """Writes a barrier; returns its mark, or None when nothing has changed since the last one."""
        state = self._state
        if state.tries.is_wary:
            self._save_suspects()
        batch = state.store.batch()
        state.tries.begin(Phase.SAVE, list(state.unsaved))
        has_saved = save_unsaved(state, batch)
        published = self._outbox.published_sequence
        position = PositionRow(
            state.next_offset,
            self._outbox.positions.get(topics.TRANSITIONS.name, 0),
            self._outbox.positions.get(topics.DEAD_LETTERS.name, 0),
            published,
            state.highest_recorded_at_ms,
            state.epoch,
            self._number,
            is_clean,
        )
        if not has_saved and position == self._last:
            state.tries.done()
            return None
        self._number += 1
        position = replace(position, barrier=self._number)
        if published > self._trimmed:
            start, end = store_keys.outbox_key(self._trimmed + 1), store_keys.outbox_key(published + 1)
            batch.delete_range(Family.OUTBOX, start, end)
            self._trimmed = published
        batch.put(Family.META, store_keys.META_POSITION, POSITION_ROW.encode(position))
        state.store.write(batch)
        state.tries.done()
        state.seen.expire(state.highest_recorded_at_ms)
        self._last = position
        return BarrierMark(state.next_offset, self._number)

    def _save_suspects(self) -> None:
        """Writes each delivery alone that may be why an earlier barrier killed; early does no harm."""
        state = self._state
        for live in list(state.unsaved.values()):
            if state.tries.group(live.offset):
                batch = state.store.batch()
                state.tries.begin(Phase.SAVE, [live.offset])
                state.save(batch, live)
                state.store.write(batch)
                state.tries.done()
