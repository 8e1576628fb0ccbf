"""Parks a delivery that has killed the process too often: a dead letter `poison`, or a rejected record.

Parking touches as little of it as can be. One whose decoding kills is rejected with its position; any other
one ends like every delivery, so that everybody downstream sees it. When parking it kills as well, what is
kept of it shrinks: a dead letter loses its body, a rejected record its value. The record itself stays in
`deliveries` for as long as its topic keeps it.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from operators.rejection import POISON, reject, rejected_key
from operators.shard import ending
from operators.shard.live import Live
from operators.shard.state import ShardState
from operators.shard.store_port import Batch, Family
from operators.suspicion import Phase
from schemas import topics
from schemas.delivery import Delivery, DeliveryState, Lane
from schemas.errors import UnreadableRecord
from schemas.transition import Reason
from schemas.wire import store_keys
from schemas.wire.records import REJECTED, decode_work


def park_record(state: ShardState, record: tuple[int, int, bytes | None, bytes | None], now_ms: int) -> None:
    """Parks the next record of `deliveries`, before anything has become of it.

    Args:
        state: of the shard; the record is among its parked ones.
        record: offset, record time in ms, key, value.
        now_ms: milliseconds UTC.
    """
    offset, recorded_at_ms, key, value = record
    if offset < state.next_offset:
        return
    parking = state.tries.parked[offset]
    state.tries.begin(Phase.ACCEPT, [offset])
    batch = state.store.batch()
    work = None
    if not parking.is_deadly_to_read:
        try:
            work = decode_work(value or b"")
        except UnreadableRecord:
            work = None
    if type(work) is Delivery:
        _end_new(state, batch, Live(offset, _lane(work), work, recorded_at_ms, now_ms), now_ms)
    else:
        if parking.is_deadly_to_keep:
            key = value = None
        _reject(state, batch, offset, recorded_at_ms, key, value)
    state.next_offset = offset + 1
    _write(state, batch)
    state.tries.done()
    state.tries.note_parked(offset)


def park_live(state: ShardState, live: Live, now_ms: int) -> None:
    """Parks a delivery that was about to be sent, in a batch of its own."""
    state.tries.begin(Phase.SEND, [live.offset])
    batch = state.store.batch()
    _end(state, batch, live, now_ms)
    _write(state, batch)
    state.tries.done()
    state.tries.note_parked(live.offset)


def has_parked_row(state: ShardState, offsets: Sequence[int]) -> bool:
    """Whether the row to be read back is one whose reading kills; such a row is always alone."""
    if len(offsets) != 1:
        return False
    parking = state.tries.parked.get(offsets[0])
    return parking is not None and parking.is_deadly_to_read


def reject_row(state: ShardState, work_key: bytes, now_ms: int, due_key: bytes | None = None) -> None:
    """Parks a stored delivery without reading it: its row goes, and its position is rejected.

    Its row in `seen` stays as it is: it can only be found by the id, which nobody can read.
    """
    offset = store_keys.parse_work_key(work_key)[2]
    state.tries.begin(Phase.READ, [offset])
    batch = state.store.batch()
    batch.delete(Family.PENDING, work_key)
    batch.delete(Family.READY, work_key)
    if due_key is not None:
        batch.delete(Family.DUE, due_key)
    _reject(state, batch, offset, now_ms, None, None)
    _write(state, batch)
    state.tries.done()
    state.tries.note_parked(offset)


def _end_new(state: ShardState, batch: Batch, live: Live, now_ms: int) -> None:
    """Ends a delivery that comes from the log, unless its id is known: then that one keeps its own fate."""
    delivery = live.delivery
    known = state.by_id.get(delivery.id)
    row = state.seen.look_up([delivery.id]).get(delivery.id)
    digest = known.delivery.digest if known is not None else row.digest if row is not None else None
    if digest is not None and digest != delivery.digest:
        name = ending.name_by_position(delivery)
        ending.put_dead_letter(state, batch, _kept(state, live), Reason.POISON, now_ms, name)
        return
    if known is not None or (row is not None and (row.has_row or row.state.is_final)):
        return
    if row is not None:
        live.attempt_count, live.schedule_step, live.lane = row.attempt_count, row.schedule_step, row.lane
    _end(state, batch, live, now_ms)


def _end(state: ShardState, batch: Batch, live: Live, now_ms: int) -> None:
    kept = _kept(state, live)
    if kept is not live and live.offset in state.live:
        state.forget(live)
    ending.end(state, batch, kept, DeliveryState.DEAD_LETTERED, Reason.POISON, now_ms)


def _kept(state: ShardState, live: Live) -> Live:
    """Returns the delivery as it is written down: without its body, when writing that killed."""
    if not state.tries.parked[live.offset].is_deadly_to_keep:
        return live
    kept = Live(
        live.offset, live.lane, replace(live.delivery, body=b""), live.fanned_out_at_ms, live.ready_at_ms
    )
    kept.attempt_count, kept.schedule_step = live.attempt_count, live.schedule_step
    kept.last_status, kept.last_error_code = live.last_status, live.last_error_code
    kept.is_stored = live.is_stored
    return kept


def _reject(
    state: ShardState, batch: Batch, offset: int, at_ms: int, key: bytes | None, value: bytes | None
) -> None:
    detail = state.tries.parked[offset].detail
    rejected = reject(topics.DELIVERIES.name, state.shard, offset, at_ms, key, value, POISON, detail)
    state.next_stamp()
    state.put_outbox(batch, topics.REJECTED.name, rejected_key(rejected), REJECTED.encode(rejected))


def _write(state: ShardState, batch: Batch) -> None:
    state.put_stamp(batch)
    state.store.write(batch)


def _lane(delivery: Delivery) -> Lane:
    return Lane.REPLAY if delivery.replay_id else Lane.FRESH
