"""Applies a block of outcomes: what every attempt came to, written in one batch before its slot is freed.

A process kill between the answer and this batch repeats the attempt; after it nothing repeats. So the batch
comes first, and the caller frees the slots only when `settle` has returned.

The next attempt is counted from `now_ms`, the schedule's clock, a few milliseconds after the attempt ended.
What an outcome says of its times comes from the sender, by the wall clock, for people and for Retry-After
dates; that one may be set by an hour in the middle of an attempt.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from operators.classify import Action, Judgement, classify
from operators.schedule import next_attempt_at_ms
from operators.shard import ending
from operators.shard.dispatch import return_to_queue
from operators.shard.live import EndpointQueue, Live, Stage
from operators.shard.state import ShardState
from operators.shard.store_port import Batch
from operators.shard.timers import DueTimers
from schemas import topics
from schemas.attempt import Attempt
from schemas.delivery import DeliveryState, Lane
from schemas.endpoint import ClientErrorPolicy, DisabledReport, Endpoint
from schemas.outcome import ErrorCode, Outcome
from schemas.transition import Reason
from schemas.wire.records import DISABLED_REPORT
from schemas.wire.store_rows import EndpointRow

OUR_FAULT_PAUSE_MS = 1_000
"""After a fault of ours the endpoint waits this long, so that our bug does not become a busy loop."""


def settle(state: ShardState, timers: DueTimers, outcomes: Sequence[Outcome], now_ms: int) -> None:
    """Applies outcomes; each token's second part is the offset of a delivery in flight.

    Args:
        state: of the shard.
        timers: take notice of the retries.
        outcomes: of this shard's deliveries; each ends exactly one try.
        now_ms: milliseconds UTC.
    """
    batch = state.store.batch()
    sequence_before = state.sequence
    queues: dict[str, EndpointQueue] = {}
    for outcome in outcomes:
        live = state.live[outcome.token[1]]
        assert live.stage is Stage.IN_FLIGHT, (live.offset, live.stage)
        endpoint_id = live.delivery.endpoint_id
        queue = state.queues[endpoint_id]
        queue.in_flight_count -= 1
        state.in_flight_count -= 1
        queues[endpoint_id] = queue
        _settle_one(state, timers, batch, live, outcome, now_ms)
    if state.sequence != sequence_before:
        state.put_stamp(batch)
    state.store.write(batch)
    for queue in queues.values():
        if queue.has_work:
            state.activate(queue)
        elif queue.is_idle and not queue.is_active:
            state.queues.pop(queue.endpoint_id, None)


def _settle_one(
    state: ShardState, timers: DueTimers, batch: Batch, live: Live, outcome: Outcome, now_ms: int
) -> None:
    endpoint = state.endpoints.get(live.delivery.endpoint_id)
    policy = state.retry_policy(endpoint)
    client_errors = endpoint.client_errors if endpoint is not None else ClientErrorPolicy.DEAD_LETTER
    judgement = classify(outcome, client_errors, policy.window_ms)
    if judgement.action is Action.NOT_AN_ATTEMPT:
        _take_back(state, batch, live, outcome, now_ms)
        return
    attempt = _attempt(live, outcome, now_ms)
    live.attempt_count += 1
    live.schedule_step += 1
    live.last_status, live.last_error_code = outcome.status, outcome.error_code
    live.may_have_been_sent = False
    if judgement.action is Action.DELIVERED:
        live.actor = ""  # a cancel that came too late did not cause this
        ending.end(state, batch, live, DeliveryState.DELIVERED, Reason.DELIVERED, now_ms, attempt)
        return
    if judgement.is_endpoint_gone and live.endpoint is not None:
        _disable(state, batch, live.endpoint, now_ms)
    if judgement.pause_ms:
        state.pause(batch, live.delivery.endpoint_id, now_ms + judgement.pause_ms)
    if live.is_cancelled:
        ending.end(state, batch, live, DeliveryState.CANCELLED, Reason.CANCELLED_BY_PERSON, now_ms, attempt)
        return
    if judgement.action is Action.DEAD_LETTER:
        ending.end(state, batch, live, DeliveryState.DEAD_LETTERED, judgement.reason, now_ms, attempt)
        return
    next_at_ms = next_attempt_at_ms(
        policy,
        live.delivery.id,
        live.schedule_step,
        now_ms,
        live.fanned_out_at_ms,
        judgement.retry_after_ms,
    )
    if next_at_ms is None:
        ending.end(state, batch, live, DeliveryState.DEAD_LETTERED, Reason.RETRIES_EXHAUSTED, now_ms, attempt)
    else:
        _retry(state, timers, batch, live, judgement, next_at_ms, now_ms, attempt)


def _retry(
    state: ShardState,
    timers: DueTimers,
    batch: Batch,
    live: Live,
    judgement: Judgement,
    next_at_ms: int,
    now_ms: int,
    attempt: Attempt,
) -> None:
    """Moves a failed delivery to `due`, out of memory."""
    if live.is_stored:
        state.delete_ready(batch, live)
    if live.lane is Lane.FRESH:
        live.lane = Lane.RETRY
    ending.put_transition(
        state,
        batch,
        live,
        DeliveryState.RETRYING,
        judgement.reason,
        now_ms,
        next_attempt_at_ms=next_at_ms,
        attempt=attempt,
    )
    timers.note(state.put_due(batch, live, next_at_ms))
    state.forget(live)


def _take_back(state: ShardState, batch: Batch, live: Live, outcome: Outcome, now_ms: int) -> None:
    """A try that our side ended is no attempt: the delivery waits again, at the head of its lane."""
    if live.is_cancelled:
        ending.end(state, batch, live, DeliveryState.CANCELLED, Reason.CANCELLED_BY_PERSON, now_ms)
        return
    live.may_have_been_sent = True
    if live.is_stored:
        state.put_ready(batch, live)
    return_to_queue(state, live)
    if outcome.error_code is ErrorCode.OUR_FAULT:
        state.pause(batch, live.delivery.endpoint_id, now_ms + OUR_FAULT_PAUSE_MS)


def _disable(state: ShardState, batch: Batch, endpoint: Endpoint, now_ms: int) -> None:
    """The endpoint, as it was when it was asked, answered 410: nothing more is sent to that generation."""
    row = state.endpoint_rows.get(endpoint.id, EndpointRow())
    if row.disabled_generation >= endpoint.generation:
        return
    state.put_endpoint_row(batch, endpoint.id, replace(row, disabled_generation=endpoint.generation))
    report = DisabledReport(endpoint.id, endpoint.generation, now_ms, "the endpoint answered 410 Gone")
    state.next_stamp()
    state.put_outbox(batch, topics.ENDPOINT_STATUS.name, endpoint.id.encode(), DISABLED_REPORT.encode(report))


def _attempt(live: Live, outcome: Outcome, now_ms: int) -> Attempt:
    return Attempt(
        live.attempt_count + 1,
        outcome.started_at_ms,
        outcome.finished_at_ms,
        live.endpoint.url if live.endpoint is not None else "",
        outcome.status,
        outcome.error_code,
        outcome.error_detail,
        outcome.headers,
        outcome.body,
        outcome.is_body_truncated,
        max((now_ms - live.ready_at_ms) * 1_000 - outcome.total_us, 0),
        outcome.connect_us,
        outcome.first_byte_us,
        outcome.total_us,
        outcome.peer,
        outcome.is_reused_connection,
        outcome.requests_sent,
        live.may_have_been_sent,
        outcome.hops,
    )
