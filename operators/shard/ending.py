"""How a delivery ends, and how every change of its state is written down.

An end is one transition (and, without success, one dead letter) in the outbox, a final row in `seen`, and no
other row left. It is written in the batch of whatever caused it.
"""

from operators.shard.live import Live
from operators.shard.state import ShardState
from operators.shard.store_port import Batch
from schemas import topics
from schemas.attempt import Attempt
from schemas.dead_letter import DeadLetter, DeadLetterKey
from schemas.delivery import Delivery, DeliveryState
from schemas.transition import Reason, Transition, TransitionKey
from schemas.wire.records import DEAD_LETTER, DEAD_LETTER_KEY, TRANSITION, TRANSITION_KEY


def put_transition(
    state: ShardState,
    batch: Batch,
    live: Live,
    to: DeliveryState,
    reason: Reason,
    now_ms: int,
    *,
    next_attempt_at_ms: int = 0,
    attempt: Attempt | None = None,
) -> None:
    """Writes the outbox row of one change of a delivery's state."""
    delivery = live.delivery
    key = TransitionKey(
        delivery.id,
        state.next_stamp(),
        delivery.endpoint_id,
        live.lane,
        live.offset,
        to,
        live.attempt_count,
        live.schedule_step,
        next_attempt_at_ms,
        delivery.digest,
        delivery.recorded_at_ms,
    )
    value = Transition(
        delivery.event_id,
        delivery.tenant_id,
        delivery.event_type,
        delivery.replay_id,
        reason,
        now_ms,
        attempt,
        live.actor,
    )
    state.put_outbox(batch, topics.TRANSITIONS.name, TRANSITION_KEY.encode(key), TRANSITION.encode(value))


def end(
    state: ShardState,
    batch: Batch,
    live: Live,
    to: DeliveryState,
    reason: Reason,
    now_ms: int,
    attempt: Attempt | None = None,
) -> None:
    """Writes a delivery's end and drops it from memory. Its rows, if any, are those of a ready delivery."""
    put_transition(state, batch, live, to, reason, now_ms, attempt=attempt)
    if to is DeliveryState.DEAD_LETTERED:
        put_dead_letter(state, batch, live, reason, now_ms, live.delivery.id)
    if live.is_stored:
        state.delete_ready(batch, live)
    state.seen.put(batch, live.delivery, state.seen_row(live, to, has_row=False))
    if live.offset in state.live:
        state.forget(live)


def put_dead_letter(
    state: ShardState, batch: Batch, live: Live, reason: Reason, now_ms: int, name: str
) -> None:
    """Writes the outbox row of a dead letter, with the body, so that it can be replayed."""
    key = DeadLetterKey(name, state.next_stamp())
    value = DeadLetter(
        live.delivery,
        live.offset,
        reason,
        now_ms,
        live.attempt_count,
        live.last_status,
        live.last_error_code,
    )
    state.put_outbox(batch, topics.DEAD_LETTERS.name, DEAD_LETTER_KEY.encode(key), DEAD_LETTER.encode(value))


def name_by_position(delivery: Delivery) -> str:
    """Returns the name of a dead letter that must not touch the delivery of the same id."""
    return f"{delivery.id}@{delivery.event_position.partition}.{delivery.event_position.offset}"
