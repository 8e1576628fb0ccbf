"""Every start: open the store, redo what it has not seen, find what must be published again.

A clean stop, a kill, a power cut, a torn tail, a restored old copy and an empty directory differ only in how
much there is to apply, so there is one procedure and no special case for any of them.
"""

from collections.abc import Iterable, Sequence

from operators.shard.outbox import OutboxProgress
from operators.shard.state import ShardState
from operators.shard.store_port import Batch, Family
from operators.shard.timers import live_of
from schemas import topics
from schemas.delivery import DeliveryState, Lane
from schemas.endpoint import DisabledReport
from schemas.transition import RowStamp, TransitionKey
from schemas.wire import store_keys
from schemas.wire.store_rows import (
    ENDPOINT_ROW,
    OUTBOX_ROW,
    PENDING_ROW,
    POSITION_ROW,
    STAMP_ROW,
    EndpointRow,
    PositionRow,
    SeenRow,
)


class Reconcile:
    """The steps of one start, in order: note `dead_letters`, `redo` blocks of `transitions`, `finish`."""

    def __init__(self, state: ShardState) -> None:
        self._state = state
        raw = state.store.get(Family.META, store_keys.META_POSITION)
        self.position: PositionRow | None = POSITION_ROW.decode(raw) if raw is not None else None
        raw = state.store.get(Family.META, store_keys.META_STAMP)
        self._stamp = STAMP_ROW.decode(raw) if raw is not None else RowStamp(0, 0)
        self._in_topic: dict[str, RowStamp] = {}
        self._letters: set[tuple[int, int]] = set()
        self.redone_count = 0
        if self.position is not None:
            state.next_offset = self.position.deliveries_offset
            state.highest_recorded_at_ms = self.position.highest_recorded_at_ms

    def redo(self, keys: Sequence[TransitionKey]) -> None:
        """Applies a block of the shard's own transitions, in log order; those the store has are skipped."""
        state = self._state
        if not keys:
            return
        self.note(topics.TRANSITIONS.name, (key.stamp for key in keys))
        missing = [key for key in keys if key.stamp > self._stamp]
        if not missing:
            return
        seen = state.seen.look_up([key.delivery_id for key in missing])
        for key in missing:
            batch = state.store.batch()
            if not self._lacks_dead_letter(key):
                seen[key.delivery_id] = self._redo_one(batch, key, seen.get(key.delivery_id))
            batch.put(Family.META, store_keys.META_STAMP, STAMP_ROW.encode(key.stamp))
            state.store.write(batch)
            self._stamp = key.stamp
            state.highest_recorded_at_ms = max(state.highest_recorded_at_ms, key.recorded_at_ms)
        self.redone_count += len(missing)

    def note(self, topic: str, stamps: Iterable[RowStamp]) -> None:
        """Takes notice of stamps that stand in a topic: their outbox rows are not published again."""
        noted = list(stamps)
        self._in_topic[topic] = max((*noted, self._in_topic.get(topic, RowStamp(0, 0))))
        if topic == topics.DEAD_LETTERS.name:
            self._letters.update((stamp.epoch, stamp.sequence) for stamp in noted)

    def seed(self, reports: Iterable[DisabledReport]) -> None:
        """Takes over what an earlier owner reported of endpoints, for a store that starts empty."""
        state = self._state
        batch = state.store.batch()
        for report in reports:
            row = EndpointRow(disabled_generation=report.generation)
            state.put_endpoint_row(batch, report.endpoint_id, row)
        state.store.write(batch)

    def finish(self, ends: dict[str, int]) -> OutboxProgress:
        """Loads what the engine keeps in memory; returns where publication goes on.

        Args:
            ends: by topic, the position up to which its records were read.
        """
        state = self._state
        self._letters.clear()
        state.sequence = self._stamp.sequence
        for key, raw in state.store.scan_all(Family.ENDPOINTS):
            endpoint_id, row = key.decode(), ENDPOINT_ROW.decode(raw)
            state.endpoint_rows[endpoint_id] = row
            if row.paused_until_ms:
                state.pauses.append((row.paused_until_ms, endpoint_id))
        state.pauses.sort()
        self._find_ready()
        return self._progress(ends)

    def _lacks_dead_letter(self, key: TransitionKey) -> bool:
        """Whether a delivery's end reached its topic and the dead letter that belongs to it did not.

        A power cut can take the outbox row between the two appends. Then the end is not redone: the delivery
        goes on from where it stood and ends once more, this time with its dead letter.
        """
        if key.state is not DeliveryState.DEAD_LETTERED or topics.DEAD_LETTERS.name not in self._in_topic:
            return False
        return (key.stamp.epoch, key.stamp.sequence + 1) not in self._letters

    def _redo_one(self, batch: Batch, key: TransitionKey, row: SeenRow | None) -> SeenRow:
        state = self._state
        is_final = key.state.is_final
        live_row = None
        if row is not None and row.has_row:
            work_key = store_keys.work_key(row.endpoint_id, row.lane, row.offset)
            raw = state.store.get(Family.PENDING, work_key)
            live_row = PENDING_ROW.decode(raw) if raw is not None else None
            batch.delete(Family.PENDING, work_key)
            batch.delete(Family.READY, work_key)
            if row.next_attempt_at_ms:
                batch.delete(Family.DUE, store_keys.due_key(row.next_attempt_at_ms, *_place(row)))
        if live_row is not None and not is_final:
            live = live_of(live_row, 0)
            live.lane = key.lane
            live.attempt_count, live.schedule_step = key.attempt_count, key.schedule_step
            state.put_due(batch, live, key.next_attempt_at_ms)
        redone = SeenRow(
            key.state,
            key.digest,
            key.endpoint_id,
            key.lane,
            key.offset,
            live_row is not None and not is_final,
            key.attempt_count,
            key.schedule_step,
            key.next_attempt_at_ms,
        )
        state.seen.put_by_time(batch, key.delivery_id, key.recorded_at_ms, redone)
        return redone

    def _find_ready(self) -> None:
        """Puts every endpoint with ready work into the rotation: one seek per endpoint, not per delivery."""
        state = self._state
        cursor = b""
        while (key := state.store.seek(Family.READY, cursor)) is not None:
            endpoint_id, _, _ = store_keys.parse_work_key(key)
            queue = state.queue_of(endpoint_id)
            for lane in Lane:
                queue.lower_cursor(lane, 0)
            state.activate(queue)
            cursor = store_keys.after_endpoint(endpoint_id)

    def _progress(self, ends: dict[str, int]) -> OutboxProgress:
        """Deletes the outbox rows that their topics hold; the rows that are left are published again."""
        state = self._state
        batch = state.store.batch()
        left: set[int] = set()
        for raw_key, raw in state.store.scan_all(Family.OUTBOX):
            sequence = store_keys.parse_outbox_key(raw_key)
            if self._is_in_topic(OUTBOX_ROW.decode(raw).topic, sequence):
                batch.delete(Family.OUTBOX, raw_key)
            else:
                left.add(sequence)
        state.store.write(batch)
        published = min(left, default=state.sequence + 1) - 1
        progress = OutboxProgress(published, dict(ends))
        progress.skip(
            sequence for sequence in range(published + 1, state.sequence + 1) if sequence not in left
        )
        return progress

    def _is_in_topic(self, topic: str, sequence: int) -> bool:
        stamp = self._in_topic.get(topic)
        return stamp is not None and sequence <= stamp.sequence


def _place(row: SeenRow) -> tuple[str, Lane, int]:
    return row.endpoint_id, row.lane, row.offset
