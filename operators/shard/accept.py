"""Takes a block of records of `deliveries`: deduplicates, queues, spills.

The shard is the authority on duplicates: a delivery id that is in memory or in `seen` is dropped, unless
`seen` only knows it from a redone transition (then the record is adopted and goes on from there). Another
body under the same id is a dead letter of its own, never a silent drop.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from operators.rejection import reject, rejected_key
from operators.shard import ending
from operators.shard.commands import on_command
from operators.shard.live import Live, Stage
from operators.shard.policy import CLOCK_LEAD_MS, TOO_OLD_MS
from operators.shard.state import ShardState
from operators.shard.store_port import Batch
from operators.shard.timers import DueTimers
from operators.suspicion import Phase
from schemas import topics
from schemas.command import Command
from schemas.delivery import Delivery, DeliveryState, Lane
from schemas.errors import UnreadableRecord
from schemas.transition import Reason
from schemas.wire.records import REJECTED, decode_work
from schemas.wire.store_rows import SeenRow

WorkRecord = tuple[int, int, bytes | None, bytes | None]
"""A record of the log: offset, record time in ms, key, value."""


def accept(state: ShardState, timers: DueTimers, records: Sequence[WorkRecord], now_ms: int) -> None:
    """Applies a block in log order, in one batch; what was taken before (below `next_offset`) is skipped.

    Args:
        state: of the shard.
        timers: for adopted deliveries that wait.
        records: of the shard's partition, ascending offsets.
        now_ms: milliseconds UTC.
    """
    batch = state.store.batch()
    sequence_before = state.sequence
    records = [record for record in records if record[0] >= state.next_offset]
    tries = state.tries
    tries.begin(Phase.DECODE, [record[0] for record in records])
    works = [(record, _decode(state, batch, record)) for record in records]
    tries.turn(Phase.ACCEPT)
    by_id = state.by_id
    ids = [work.id for _, work in works if type(work) is Delivery and work.id not in by_id]
    seen = state.seen.look_up(ids)
    is_written = False
    for record, work in works:
        if type(work) is Delivery:
            is_written |= _accept_delivery(state, timers, batch, record, work, seen, now_ms)
        elif type(work) is Command:
            # A command may concern a delivery of this very block: what stands in the batch must be readable
            # first.
            if is_written or state.sequence != sequence_before:
                _write(state, batch, sequence_before)
                batch, sequence_before, is_written = state.store.batch(), state.sequence, False
            on_command(state, timers, work, now_ms)
            sequence_before = state.sequence
            # What it ended must not come to life again by its own repeat further on in this block.
            seen.update(state.seen.look_up([work.delivery_id]))
    if works:
        state.next_offset = works[-1][0][0] + 1
    if len(state.unsaved) > state.policy.unsaved_max:
        is_written |= save_unsaved(state, batch)
    if is_written or state.sequence != sequence_before:
        _write(state, batch, sequence_before)
    tries.done()


def save_unsaved(state: ShardState, batch: Batch) -> bool:
    """Writes every delivery that only memory holds; returns whether there was any."""
    if not state.unsaved:
        return False
    for live in list(state.unsaved.values()):
        state.save(batch, live)
    return True


def _write(state: ShardState, batch: Batch, sequence_before: int) -> None:
    if state.sequence != sequence_before:
        state.put_stamp(batch)
    state.store.write(batch)


def _decode(state: ShardState, batch: Batch, record: WorkRecord) -> Delivery | Command | None:
    offset, recorded_at_ms, key, value = record
    try:
        return decode_work(value or b"")
    except UnreadableRecord as error:
        state.next_stamp()
        of = topics.DELIVERIES.name
        rejected = reject(of, state.shard, offset, recorded_at_ms, key, value, "unreadable", str(error))
        state.put_outbox(batch, topics.REJECTED.name, rejected_key(rejected), REJECTED.encode(rejected))
        return None


def _accept_delivery(
    state: ShardState,
    timers: DueTimers,
    batch: Batch,
    record: WorkRecord,
    delivery: Delivery,
    seen: dict[str, SeenRow],
    now_ms: int,
) -> bool:
    """Applies one delivery; returns whether the batch got rows besides the outbox's."""
    offset, fanned_out_at_ms = record[0], record[1]
    is_too_old = delivery.recorded_at_ms < state.highest_recorded_at_ms - TOO_OLD_MS
    # Repeats count too: after a crash the same records must lead to the same judgements.
    # A log whose clock runs ahead must not make everything after it too old, nor `seen` forget.
    trusted_ms = min(delivery.recorded_at_ms, now_ms + CLOCK_LEAD_MS)
    state.highest_recorded_at_ms = max(state.highest_recorded_at_ms, trusted_ms)
    known = state.by_id.get(delivery.id)
    row = seen.get(delivery.id)
    digest = known.delivery.digest if known is not None else row.digest if row is not None else None
    lane = Lane.REPLAY if delivery.replay_id else Lane.FRESH
    live = Live(offset, lane, delivery, fanned_out_at_ms, now_ms)
    if digest is not None and digest != delivery.digest:
        name = ending.name_by_position(delivery)
        ending.put_dead_letter(state, batch, live, Reason.IDEMPOTENCY_CONFLICT, now_ms, name)
        return True
    if known is not None:
        return False
    if row is not None:
        if row.has_row or row.state.is_final:
            return False
        return _adopt(state, timers, batch, live, row, seen)
    if is_too_old:
        name = ending.name_by_position(delivery)
        ending.put_dead_letter(state, batch, live, Reason.TOO_OLD, now_ms, name)
        return True
    window_ms = state.policy.retry.window_ms
    if now_ms > fanned_out_at_ms + window_ms and _has_expired(state, delivery, fanned_out_at_ms, now_ms):
        ending.end(state, batch, live, DeliveryState.DEAD_LETTERED, Reason.EXPIRED, now_ms)
        seen[delivery.id] = state.seen_row(live, DeliveryState.DEAD_LETTERED, has_row=False)
        return True
    return _enqueue(state, batch, live, seen)


def _has_expired(state: ShardState, delivery: Delivery, fanned_out_at_ms: int, now_ms: int) -> bool:
    """Whether the endpoint's own window is over; asked only when the default one is."""
    own = state.retry_policy(state.endpoints.get(delivery.endpoint_id))
    return now_ms > fanned_out_at_ms + own.window_ms


def _enqueue(state: ShardState, batch: Batch, live: Live, seen: dict[str, SeenRow]) -> bool:
    queue = state.queue_of(live.delivery.endpoint_id)
    live.may_have_been_sent = live.offset < state.resend_below
    if state.can_hold(queue, live.lane):
        state.remember(live)
        queue.lanes[live.lane].append(live)
        state.activate(queue)
        return False
    if not queue.has_more[live.lane]:
        # The older ones go first: after a crash they would otherwise be read from the log behind this one.
        for older in queue.lanes[live.lane]:
            if older.stage is Stage.QUEUED:
                state.save(batch, older)
    state.put_ready(batch, live)
    queue.lower_cursor(live.lane, live.offset)
    seen[live.delivery.id] = state.seen_row(live, DeliveryState.PENDING, has_row=True)
    state.activate(queue)
    return True


def _adopt(
    state: ShardState, timers: DueTimers, batch: Batch, live: Live, row: SeenRow, seen: dict[str, SeenRow]
) -> bool:
    """Goes on with a delivery whose transitions were redone before its record came."""
    live.attempt_count, live.schedule_step = row.attempt_count, row.schedule_step
    live.may_have_been_sent = live.offset < state.resend_below
    if row.lane is not Lane.FRESH:
        live.lane = row.lane
    timers.note(state.put_due(batch, live, max(row.next_attempt_at_ms, 1)))
    seen[live.delivery.id] = replace(row, has_row=True)
    return True
