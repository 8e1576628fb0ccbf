"""Cancel and retry now, at every stage of a delivery."""

import pytest

from operators.shard.store_port import Family
from schemas.command import CommandKind
from schemas.delivery import Delivery, DeliveryState
from schemas.endpoint import EndpointStatus
from schemas.outcome import ErrorCode
from schemas.transition import Reason
from tests.operators.shard.desk import Desk, endpoint, limits

CANCELLED = [DeliveryState.CANCELLED]


def _hurry(desk: Desk, delivery: Delivery, attempt_count: int) -> None:
    desk.command(CommandKind.RETRY_NOW, delivery, attempt_count)


def _is_gone_from_the_store(desk: Desk) -> bool:
    return not any(desk.rows(family) for family in (Family.PENDING, Family.READY, Family.DUE))


@pytest.mark.parametrize("is_stored", [False, True])
def test_cancel_of_a_queued_delivery(is_stored: bool) -> None:  # noqa: FBT001 - a parameter
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.take()
    if is_stored:
        desk.engine.barrier()
    desk.cancel(delivery)
    assert desk.send() == []
    assert desk.states(delivery) == CANCELLED
    assert desk.transitions(delivery)[0][1].actor == "someone"
    assert desk.reason(delivery) == Reason.CANCELLED_BY_PERSON
    assert _is_gone_from_the_store(desk)
    assert desk.dead_letters() == []


def test_cancel_of_a_spilled_delivery() -> None:
    desk = Desk(endpoint(status=EndpointStatus.PAUSED))
    delivery = desk.deliver("evt_1")
    desk.send()
    desk.cancel(delivery)
    assert desk.states(delivery) == CANCELLED
    assert _is_gone_from_the_store(desk)


def test_cancel_of_a_delivery_that_waits_for_its_time() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    desk.cancel(delivery)
    assert desk.states(delivery) == [DeliveryState.RETRYING, DeliveryState.CANCELLED]
    assert _is_gone_from_the_store(desk)
    desk.later(2_000)
    assert desk.send() == []


def test_cancel_of_a_retry_whose_time_has_come() -> None:
    desk = Desk(endpoint(max_concurrency=1), policy=limits(endpoint_live_max=1))
    deliveries = [desk.deliver(f"evt_{number}") for number in range(3)]
    for _ in deliveries:
        desk.answer(desk.one(), 500)
    desk.later(1_250)
    for delivery in deliveries:  # one is in memory, the others are only in `ready`
        desk.cancel(delivery)
    assert desk.send() == []
    assert [desk.states(delivery)[-1:] for delivery in deliveries] == [CANCELLED] * 3
    assert _is_gone_from_the_store(desk)


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize(
    ("status", "error", "end"),
    [
        (200, ErrorCode.NONE, DeliveryState.DELIVERED),
        (500, ErrorCode.NONE, DeliveryState.CANCELLED),
        (404, ErrorCode.NONE, DeliveryState.CANCELLED),
        (None, ErrorCode.TIMEOUT, DeliveryState.CANCELLED),
        (None, ErrorCode.OUR_SHUTDOWN, DeliveryState.CANCELLED),
    ],
)
def test_cancel_in_flight_takes_effect_at_the_end_of_the_attempt(
    status: int | None,
    error: ErrorCode,
    end: DeliveryState,
    is_stored: bool,  # noqa: FBT001 - a parameter
) -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    sent = desk.one()
    if is_stored:
        desk.engine.barrier()
    desk.cancel(delivery)
    assert desk.states(delivery) == []
    desk.answer(sent, status, error)
    ((_, transition),) = desk.transitions(delivery)
    assert desk.states(delivery) == [end]
    assert (transition.attempt is None) == error.is_ours
    assert transition.actor == ("" if end is DeliveryState.DELIVERED else "someone")
    assert _is_gone_from_the_store(desk)


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("is_held", [False, True])
def test_cancel_in_flight_survives_a_crash(is_stored: bool, is_held: bool) -> None:  # noqa: FBT001
    """The barrier moves past the command: what it said must be in the store by then."""
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.one()
    if is_stored:
        desk.engine.barrier()
    desk.cancel(delivery)
    desk.engine.barrier()
    desk.kill()
    if is_held:
        desk.view.by_id["ep_a"] = endpoint(status=EndpointStatus.PAUSED)
    assert desk.send() == []
    desk.engine.review_held(desk.now_ms)
    assert desk.states(delivery) == CANCELLED
    assert desk.transitions(delivery)[0][1].actor == "someone"
    assert _is_gone_from_the_store(desk)


def test_a_cancelled_delivery_is_not_written_again_when_its_queue_spills() -> None:
    desk = Desk(endpoint(max_concurrency=1), policy=limits(endpoint_live_max=3))
    deliveries = [desk.deliver(f"evt_{number}") for number in range(3)]
    desk.take()
    desk.cancel(deliveries[1])
    desk.deliver("evt_3")  # the fourth of three: it spills, and the older ones before it
    desk.take()
    assert len(desk.rows(Family.PENDING)) == 3
    assert [sent.live.offset for sent in desk.settle_everything()] == [0, 2, 4]
    assert desk.states(deliveries[1]) == CANCELLED


@pytest.mark.parametrize("end", [200, 404])
def test_cancel_of_an_ended_or_unknown_delivery_changes_nothing(end: int) -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.settle_everything(end)
    before = desk.published
    desk.cancel(delivery)
    desk.cancel(Desk().deliver("evt_unknown"))
    assert desk.published == before


def test_a_command_in_the_block_of_its_delivery_finds_it() -> None:
    desk = Desk(policy=limits(live_max=0))
    delivery = desk.deliver("evt_1")
    desk.command(CommandKind.CANCEL, delivery)
    assert desk.send() == []
    assert desk.states(delivery) == CANCELLED


# Retry now --------------------------------------------------------------------------------


def test_retry_now_sends_at_once() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    _hurry(desk, delivery, 1)
    assert desk.one().number == 2


@pytest.mark.parametrize("attempt_count", [0, 2])
def test_a_stale_retry_now_is_ignored(attempt_count: int) -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    _hurry(desk, delivery, attempt_count)
    assert desk.send() == []
    desk.later(1_250)
    assert desk.one().number == 2


def test_retry_now_twice_sends_once() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    _hurry(desk, delivery, 1)
    _hurry(desk, delivery, 1)
    assert len(desk.settle_everything()) == 1
    assert len(desk.transitions(delivery)) == 2


def test_retry_now_at_the_very_moment_of_the_timer_sends_once() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    desk.now_ms = desk.transitions(delivery)[0][0].next_attempt_at_ms
    _hurry(desk, delivery, 1)
    assert len(desk.settle_everything()) == 1


def test_retry_now_of_a_retry_that_is_ready_changes_nothing() -> None:
    """A delivery in `ready` and in `due` at once would be sent twice."""
    desk = Desk(endpoint(max_concurrency=1), policy=limits(endpoint_live_max=1))
    deliveries = [desk.deliver(f"evt_{number}") for number in range(3)]
    for _ in deliveries:
        desk.answer(desk.one(), 500)
    desk.later(1_250)
    for delivery in deliveries:
        _hurry(desk, delivery, 1)
    desk.take()
    assert desk.rows(Family.DUE) == []
    assert len(desk.settle_everything()) == 3


def test_retry_now_of_a_ready_retry_changes_nothing_even_when_the_clock_went_back() -> None:
    desk = Desk(policy=limits(live_max=0))
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    desk.later(1_250)
    desk.now_ms -= 1_000
    _hurry(desk, delivery, 1)
    desk.take()
    assert desk.rows(Family.DUE) == []
    assert len(desk.rows(Family.READY)) == 1


def test_retry_now_of_what_is_queued_in_flight_or_ended_changes_nothing() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    for _ in range(3):
        _hurry(desk, delivery, 0)
        desk.take()
        sent = desk.engine.next_block(desk.now_ms, 10)
        if sent:
            _hurry(desk, delivery, 0)
            desk.take()
            desk.answer(sent)
    assert len(desk.transitions(delivery)) == 1


def test_retry_now_is_still_there_after_a_crash() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    _hurry(desk, delivery, 1)
    desk.take()
    desk.kill()
    assert desk.one().number == 2
