"""Every start: open the store, redo what it has not seen, find what must be published again.

A clean stop, a kill, a power cut, a torn tail, a restored old copy and an empty directory differ only in how
much there is to apply, so there is one procedure and no special case for any of them.

Redo is one store batch per block of transitions, because an empty directory may have millions to redo. A
transition's key says where its delivery stands then, not what changed; so of several that concern one
delivery only the last is applied, and no row is read that the same batch has written. `meta`'s stamp is in
the batch: a death between two blocks leaves a store that is merely behind.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

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
    PendingRow,
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
        self._letters = _Stamps()
        self.redone_count = 0
        if self.position is not None:
            state.next_offset = self.position.deliveries_offset
            state.highest_recorded_at_ms = self.position.highest_recorded_at_ms

    def redo(self, keys: Sequence[TransitionKey]) -> None:
        """Applies a block of the shard's own transitions, in log order; those the store has are skipped."""
        state = self._state
        self.note(topics.TRANSITIONS.name, (key.stamp for key in keys))
        last: dict[str, TransitionKey] = {}
        stamp, count = self._stamp, 0
        for key in keys:
            if key.stamp <= stamp:
                continue  # the store has it, or it was published twice
            stamp = key.stamp
            count += 1
            state.highest_recorded_at_ms = max(state.highest_recorded_at_ms, key.recorded_at_ms)
            if not self._lacks_dead_letter(key):
                last[key.delivery_id] = key
        if not count:
            return
        batch = state.store.batch()
        seen = state.seen.look_up(list(last))
        waiting = self._pending_rows(seen)
        for key in last.values():
            self._redo_one(batch, key, seen.get(key.delivery_id), waiting.get(key.delivery_id))
        batch.put(Family.META, store_keys.META_STAMP, STAMP_ROW.encode(stamp))
        state.store.write(batch)
        self._stamp = stamp
        self.redone_count += count

    def note(self, topic: str, stamps: Iterable[RowStamp]) -> None:
        """Takes notice of stamps that stand in a topic: their outbox rows are not published again."""
        noted = list(stamps)
        self._in_topic[topic] = max((*noted, self._in_topic.get(topic, RowStamp(0, 0))))
        if topic == topics.DEAD_LETTERS.name:
            self._letters.add(noted)

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
        self._letters = _Stamps()
        state.sequence = self._stamp.sequence
        for key, raw in state.store.scan_all(Family.ENDPOINTS):
            endpoint_id, row = key.decode(), ENDPOINT_ROW.decode(raw)
            state.endpoint_rows[endpoint_id] = row
            if row.paused_until_ms:
                state.pauses.append((row.paused_until_ms, endpoint_id))
        for endpoint_id in list(state.endpoint_rows):
            state.tidy_endpoint_row(endpoint_id)
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
        return RowStamp(key.stamp.epoch, key.stamp.sequence + 1) not in self._letters

    def _pending_rows(self, seen: Mapping[str, SeenRow]) -> dict[str, PendingRow]:
        """Returns the rows that those deliveries wait in."""
        waiting = [(delivery_id, row) for delivery_id, row in seen.items() if row.has_row]
        if not waiting:
            return {}
        rows = self._state.store.get_many(Family.PENDING, [_work_key(row) for _, row in waiting])
        return {
            delivery_id: PENDING_ROW.decode(raw)
            for (delivery_id, _), raw in zip(waiting, rows, strict=True)
            if raw is not None
        }

    def _redo_one(
        self, batch: Batch, key: TransitionKey, row: SeenRow | None, waiting: PendingRow | None
    ) -> None:
        """Brings a delivery to where a transition says that it stands; its record may be yet to come."""
        state = self._state
        if row is not None and row.has_row:
            batch.delete(Family.PENDING, _work_key(row))
            batch.delete(Family.READY, _work_key(row))
            if row.next_attempt_at_ms:
                due = store_keys.due_key(row.next_attempt_at_ms, row.endpoint_id, row.lane, row.offset)
                batch.delete(Family.DUE, due)
        has_row = waiting is not None and not key.state.is_final
        if waiting is not None and has_row:
            live = live_of(waiting, 0)
            live.lane = key.lane
            live.attempt_count, live.schedule_step = key.attempt_count, key.schedule_step
            state.put_due(batch, live, key.next_attempt_at_ms)
        redone = SeenRow(
            key.state,
            key.digest,
            key.endpoint_id,
            key.lane,
            key.offset,
            has_row,
            key.attempt_count,
            key.schedule_step,
            key.next_attempt_at_ms,
        )
        state.seen.put_by_time(batch, key.delivery_id, key.recorded_at_ms, redone)

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


class _Stamps:
    """Many stamps in little memory: 8 bytes each, where a set of tuples takes 150."""

    _SEQUENCE_BITS = 40

    def __init__(self) -> None:
        self._sorted = array("Q")

    def add(self, stamps: Iterable[RowStamp]) -> None:
        """Adds stamps; they nearly always come in order."""
        number_last = self._sorted[-1] if self._sorted else 0
        is_sorted = True
        for stamp in stamps:
            number = self._number(stamp)
            is_sorted &= number >= number_last
            number_last = number
            self._sorted.append(number)
        if not is_sorted:
            self._sorted = array("Q", sorted(self._sorted))

    def __contains__(self, stamp: RowStamp) -> bool:
        number = self._number(stamp)
        place = bisect_left(self._sorted, number)
        return place < len(self._sorted) and self._sorted[place] == number

    def _number(self, stamp: RowStamp) -> int:
        assert stamp.sequence < 1 << self._SEQUENCE_BITS, stamp
        return stamp.epoch << self._SEQUENCE_BITS | stamp.sequence


def _work_key(row: SeenRow) -> bytes:
    return store_keys.work_key(row.endpoint_id, row.lane, row.offset)
