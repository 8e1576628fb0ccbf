"""What an attempt's end does to its delivery, and what its record says."""

import pytest

from dataflows.connectors.shard_store.memory import MemoryStore
from operators.shard.store_port import Family
from schemas.attempt import Attempt
from schemas.delivery import Delivery, DeliveryState, Lane
from schemas.outcome import ErrorCode
from schemas.transition import Reason
from tests.operators.shard.desk import RETRY, WINDOW_MS, Desk, endpoint, limits

AFTER_ALL_DELAYS_MS = 80_000


def _attempts(desk: Desk, delivery: Delivery) -> list[Attempt]:
    return [value.attempt for _, value in desk.transitions(delivery) if value.attempt is not None]


def test_a_success_is_one_transition_and_leaves_one_row_in_seen() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.settle_everything()
    ((key, value),) = desk.transitions(delivery)
    assert (key.state, key.attempt_count, key.lane) == (DeliveryState.DELIVERED, 1, Lane.FRESH)
    assert value.attempt is not None
    assert (value.attempt.number, value.attempt.status) == (1, 200)
    assert value.attempt.url == "https://ep_a.example/"
    assert [desk.rows(family) for family in (Family.PENDING, Family.READY, Family.DUE)] == [[], [], []]


def test_a_delivery_that_never_succeeds_makes_every_attempt_and_becomes_a_dead_letter() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    numbers = []
    for _ in range(20):
        numbers += [sent.number for sent in desk.settle_everything(500)]
        desk.later(1_000)
    desk.later(AFTER_ALL_DELAYS_MS)
    numbers += [sent.number for sent in desk.settle_everything(500)]
    desk.later(AFTER_ALL_DELAYS_MS)
    numbers += [sent.number for sent in desk.settle_everything(500)]

    assert numbers == [1, 2, 3, 4, 5]
    assert [attempt.number for attempt in _attempts(desk, delivery)] == numbers
    assert desk.states(delivery) == [DeliveryState.RETRYING] * 4 + [DeliveryState.DEAD_LETTERED]
    assert desk.reason(delivery) == Reason.RETRIES_EXHAUSTED
    ((key, letter),) = desk.dead_letters()
    assert (key.name, letter.attempt_count, letter.last_status) == (delivery.id, 5, 500)
    assert letter.delivery == delivery
    assert desk.rows(Family.PENDING) == desk.rows(Family.DUE) == []


def test_no_retry_starts_before_it_is_due() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    due_ms = desk.transitions(delivery)[0][0].next_attempt_at_ms
    assert RETRY.delays_ms[0] <= due_ms - desk.now_ms <= RETRY.delays_ms[0] * 1.25
    desk.later(due_ms - desk.now_ms - 1)
    assert desk.send() == []
    desk.later(1)
    assert desk.one().number == 2


def test_an_attempt_that_is_more_than_a_minute_past_its_window_does_not_start() -> None:
    for late_ms, state in ((60_000, DeliveryState.DELIVERED), (60_001, DeliveryState.DEAD_LETTERED)):
        desk = Desk()
        delivery = desk.deliver("evt_1")
        desk.take()
        desk.now_ms += WINDOW_MS + late_ms
        desk.settle_everything()
        assert desk.states(delivery) == [state]


@pytest.mark.parametrize("error", [ErrorCode.OUR_SHUTDOWN, ErrorCode.OUR_FAULT])
def test_our_own_fault_is_no_attempt(error: ErrorCode) -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    for _ in range(5):
        sent = desk.one()
        assert sent.number == 1
        desk.answer(sent, None, error)
        desk.later(1_000)
    desk.answer(desk.one())
    assert [attempt.number for attempt in _attempts(desk, delivery)] == [1]
    assert desk.transitions(delivery)[0][0].schedule_step == 1


def test_a_replay_stays_in_its_lane() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1", replay_id="rpl_1")
    desk.answer(desk.one(), 500)
    desk.later(1_250)
    desk.settle_everything()
    assert [key.lane for key, _ in desk.transitions(delivery)] == [Lane.REPLAY, Lane.REPLAY]


def test_the_log_names_the_address_that_was_asked() -> None:
    desk = Desk()
    changed, deleted = desk.deliver("evt_1"), desk.deliver("evt_2")
    first, second = desk.send()
    desk.view.by_id["ep_a"] = endpoint(url="https://elsewhere.example/")
    desk.answer(first)
    del desk.view.by_id["ep_a"]
    desk.answer(second)
    for delivery in (changed, deleted):
        assert [attempt.url for attempt in _attempts(desk, delivery)] == ["https://ep_a.example/"]


def test_at_most_max_concurrency_are_in_flight() -> None:
    desk = Desk(endpoint("ep_a", max_concurrency=3), endpoint("ep_b", max_concurrency=1_000))
    for number in range(100):
        desk.deliver(f"evt_{number}", "ep_a")
        desk.deliver(f"evt_{number}", "ep_b")
    block = desk.send()
    block += desk.send()
    to = [sent.endpoint.id for sent in block]
    assert to.count("ep_a") == 3
    assert to.count("ep_b") == desk.policy.endpoint_in_flight_max
    one_of_a = next(sent for sent in block if sent.endpoint.id == "ep_a")
    desk.answer(one_of_a)
    assert [sent.endpoint.id for sent in desk.send()] == ["ep_a"]


def test_no_more_are_sent_than_there_are_slots() -> None:
    desk = Desk()
    for number in range(40):
        desk.deliver(f"evt_{number}")
    assert [len(desk.send(slots)) for slots in (0, 1, 7, 100)] == [0, 1, 7, 32]


# After a crash ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_barrier", [False, True])
def test_what_was_in_flight_at_a_crash_is_sent_again_and_says_so(has_barrier: bool) -> None:  # noqa: FBT001
    desk = Desk()
    repeated = desk.deliver("evt_1")
    desk.one()
    if has_barrier:
        desk.engine.barrier()
    desk.kill()
    fresh = desk.deliver("evt_2")
    desk.settle_everything()
    assert [attempt.after_crash for attempt in _attempts(desk, repeated)] == [True]
    assert [attempt.after_crash for attempt in _attempts(desk, fresh)] == [False]


def test_the_next_attempt_after_a_repeat_is_no_repeat() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.one()
    desk.kill()
    desk.answer(desk.one(), 500)
    desk.later(1_250)
    desk.settle_everything()
    assert [attempt.after_crash for attempt in _attempts(desk, delivery)] == [True, False]


def test_a_retry_that_waited_for_its_time_at_the_crash_is_no_repeat() -> None:
    desk = Desk(endpoint(max_concurrency=1), policy=limits(endpoint_live_max=1))
    deliveries = [desk.deliver(f"evt_{number}") for number in range(4)]
    for _ in deliveries:
        desk.answer(desk.one(), 500)
    desk.kill()
    desk.later(1_250)
    desk.settle_everything()
    for delivery in deliveries:  # one went through memory, the others through `ready`
        assert [attempt.after_crash for attempt in _attempts(desk, delivery)] == [False, False]


def test_a_repeat_is_marked_however_it_comes_back_to_memory() -> None:
    desk = Desk(endpoint(max_concurrency=1), policy=limits(endpoint_live_max=1))
    deliveries = [desk.deliver(f"evt_{number}") for number in range(4)]
    desk.take()
    desk.kill()
    desk.settle_everything()
    for delivery in deliveries:
        assert [attempt.after_crash for attempt in _attempts(desk, delivery)] == [True]


def test_a_retry_that_a_lost_directory_may_have_sent_is_marked() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    desk.publish()
    desk.later(1_250)
    desk.one()
    desk.kill(MemoryStore())
    desk.settle_everything()
    assert [attempt.after_crash for attempt in _attempts(desk, delivery)] == [False, True]


def test_a_mark_outlives_a_graceful_stop() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.one()
    desk.kill()
    desk.take()
    desk.stop()
    desk.settle_everything()
    assert [attempt.after_crash for attempt in _attempts(desk, delivery)] == [True]


@pytest.mark.parametrize("is_stored", [False, True])
def test_what_a_stop_cut_off_may_have_been_sent(is_stored: bool) -> None:  # noqa: FBT001 - a parameter
    desk = Desk()
    cut, waiting = desk.deliver("evt_1"), desk.deliver("evt_2")
    (sent,) = desk.send(1)
    if is_stored:
        desk.engine.barrier()
    desk.answer(sent, None, ErrorCode.OUR_SHUTDOWN)
    desk.stop()
    desk.settle_everything()
    assert [attempt.after_crash for attempt in _attempts(desk, cut)] == [True]
    assert [attempt.after_crash for attempt in _attempts(desk, waiting)] == [False]


def test_a_graceful_stop_marks_nothing() -> None:
    desk = Desk()
    deliveries = [desk.deliver(f"evt_{number}") for number in range(3)]
    desk.take()
    desk.stop()
    desk.settle_everything()
    for delivery in deliveries:
        assert [attempt.after_crash for attempt in _attempts(desk, delivery)] == [False]


def test_an_old_copy_of_a_clean_store_is_not_taken_for_a_clean_stop() -> None:
    desk = Desk()
    early = desk.deliver("evt_1")
    desk.settle_everything(500)
    desk.publish()
    desk.engine.barrier(is_clean=True)
    copy = desk.store.copy()
    desk.deliver("evt_2")
    desk.settle_everything()
    desk.publish()
    in_flight = desk.deliver("evt_3")
    desk.one()
    desk.kill(copy)
    desk.settle_everything()
    assert [attempt.after_crash for attempt in _attempts(desk, in_flight)] == [True]
    assert [attempt.number for attempt in _attempts(desk, early)] == [1]
