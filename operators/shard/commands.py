"""Applies commands to deliveries. They are conditional: a stale one changes nothing.

Cancel is always applied; while an attempt is in flight it takes effect at its end (2xx: delivered, else
cancelled). Retry now counts only while the delivery has exactly the attempts that the person saw.
"""

from operators.shard import ending
from operators.shard.live import Live, Stage
from operators.shard.state import ShardState
from operators.shard.store_port import Family
from operators.shard.timers import DueTimers, live_of
from schemas.command import Command, CommandKind
from schemas.delivery import DeliveryState
from schemas.transition import Reason
from schemas.wire import store_keys
from schemas.wire.store_rows import PENDING_ROW, PendingRow


def on_command(state: ShardState, timers: DueTimers, command: Command, now_ms: int) -> None:
    """Applies one command in a batch of its own."""
    live = state.by_id.get(command.delivery_id)
    if live is not None:
        if command.kind is CommandKind.CANCEL:
            _cancel_live(state, live, command, now_ms)
        return  # Queued or in flight already: there is nothing to hasten.
    row = _waiting_row(state, command.delivery_id)
    if row is None:
        return
    if command.kind is CommandKind.CANCEL:
        _cancel_row(state, row, command, now_ms)
    elif row.next_attempt_at_ms and row.attempt_count == command.attempt_count:
        _retry_now(state, timers, row, now_ms)


def _cancel_live(state: ShardState, live: Live, command: Command, now_ms: int) -> None:
    live.actor = command.actor
    if live.stage is Stage.IN_FLIGHT:
        live.is_cancelled = True
        if live.is_stored:  # else the next barrier writes it, together with the command's position
            batch = state.store.batch()
            state.put_ready(batch, live)
            state.store.write(batch)
        return
    batch = state.store.batch()
    ending.end(state, batch, live, DeliveryState.CANCELLED, Reason.CANCELLED_BY_PERSON, now_ms)
    state.put_stamp(batch)
    state.store.write(batch)


def _cancel_row(state: ShardState, row: PendingRow, command: Command, now_ms: int) -> None:
    live = live_of(row, now_ms)
    live.actor = command.actor
    batch = state.store.batch()
    if row.next_attempt_at_ms:
        due = store_keys.due_key(row.next_attempt_at_ms, row.delivery.endpoint_id, row.lane, row.offset)
        batch.delete(Family.DUE, due)
    ending.end(state, batch, live, DeliveryState.CANCELLED, Reason.CANCELLED_BY_PERSON, now_ms)
    state.put_stamp(batch)
    state.store.write(batch)


def _retry_now(state: ShardState, timers: DueTimers, row: PendingRow, now_ms: int) -> None:
    """Moves the timer to now; the ordinary firing does the rest. One that has fired already stays."""
    key = store_keys.work_key(row.delivery.endpoint_id, row.lane, row.offset)
    if state.store.get(Family.READY, key) is not None:
        return
    batch = state.store.batch()
    due = store_keys.due_key(row.next_attempt_at_ms, row.delivery.endpoint_id, row.lane, row.offset)
    batch.delete(Family.DUE, due)
    timers.note(state.put_due(batch, live_of(row, now_ms), now_ms))
    state.store.write(batch)


def _waiting_row(state: ShardState, delivery_id: str) -> PendingRow | None:
    seen = state.seen.look_up([delivery_id]).get(delivery_id)
    if seen is None or not seen.has_row:
        return None
    raw = state.store.get(Family.PENDING, store_keys.work_key(seen.endpoint_id, seen.lane, seen.offset))
    return PENDING_ROW.decode(raw) if raw is not None else None
