"""Endpoints that nothing may be sent to: paused, disabled, gone, told to wait, not known yet, deleted."""

import pytest
from msgspec.structs import replace

from dataflows.connectors.shard_store.memory import MemoryStore
from operators.shard.store_port import Family
from schemas.delivery import DeliveryState
from schemas.endpoint import Endpoint, EndpointStatus
from schemas.outcome import ErrorCode
from schemas.transition import Reason
from tests.operators.shard.desk import RETRY, WINDOW_MS, Desk, endpoint, limits

PAUSED = endpoint(status=EndpointStatus.PAUSED)


def _change(desk: Desk, to: Endpoint) -> None:
    desk.view.by_id[to.id] = to
    desk.engine.wake(to.id)


def _delete(desk: Desk, name: str = "ep_a") -> None:
    del desk.view.by_id[name]
    desk.view.position += 1
    desk.engine.wake(name)


@pytest.mark.parametrize("status", [EndpointStatus.PAUSED, EndpointStatus.DISABLED])
def test_nothing_is_sent_until_the_endpoint_is_active_again(status: EndpointStatus) -> None:
    desk = Desk(endpoint(status=status))
    deliveries = [desk.deliver(f"evt_{number}") for number in range(5)]
    for _ in range(3):
        assert desk.send() == []
        desk.engine.review_held(desk.now_ms)
        desk.later(1_000)
    desk.kill()
    assert desk.send() == []
    _change(desk, endpoint())
    assert [dispatch.live.delivery.id for dispatch in desk.settle_everything()] == [d.id for d in deliveries]


def test_a_pause_holds_what_already_waited_too() -> None:
    desk = Desk(endpoint(max_concurrency=1))
    for number in range(3):
        desk.deliver(f"evt_{number}")
    first = desk.one()
    _change(desk, PAUSED)
    desk.answer(first)
    assert desk.send() == []
    _change(desk, endpoint())
    assert len(desk.settle_everything()) == 2


def test_a_pause_does_not_bring_back_what_was_cancelled() -> None:
    desk = Desk()
    cancelled, waiting = desk.deliver("evt_1"), desk.deliver("evt_2")
    desk.take()
    desk.cancel(cancelled)
    _change(desk, PAUSED)
    desk.send()
    _change(desk, endpoint())
    assert [sent.live.delivery.id for sent in desk.settle_everything()] == [waiting.id]


def test_what_is_held_stands_in_the_store_and_not_in_memory() -> None:
    desk = Desk(PAUSED)
    for number in range(5):
        desk.deliver(f"evt_{number}")
    desk.send()
    assert not desk.engine.state.live
    assert len(desk.rows(Family.READY)) == len(desk.rows(Family.PENDING)) == 5


def test_what_outlives_its_window_while_held_is_a_dead_letter() -> None:
    desk = Desk(PAUSED, policy=limits(refill_max=2))
    early = [desk.deliver(f"evt_{number}") for number in range(5)]
    desk.send()
    desk.later(10_000)
    late = desk.deliver("evt_late")
    desk.send()
    desk.later(WINDOW_MS - 10_000)
    desk.engine.review_held(desk.now_ms)
    assert desk.dead_letters() == []
    desk.later(1)
    desk.engine.review_held(desk.now_ms)
    assert [key.name for key, _ in desk.dead_letters()] == [delivery.id for delivery in early]
    assert {desk.reason(delivery) for delivery in early} == {Reason.EXPIRED_WHILE_HELD}
    assert desk.states(late) == []
    desk.later(10_000)
    desk.engine.review_held(desk.now_ms)
    assert desk.states(late) == [DeliveryState.DEAD_LETTERED]
    desk.send()
    assert not desk.engine.state.held
    assert not desk.engine.state.queues


def test_a_window_that_is_shortened_counts_at_once() -> None:
    desk = Desk(PAUSED)
    delivery = desk.deliver("evt_1")
    desk.send()
    desk.engine.review_held(desk.now_ms)
    desk.later(5_000)
    _change(desk, replace(PAUSED, retry=replace(RETRY, window_ms=4_000)))
    desk.send()
    desk.engine.review_held(desk.now_ms)
    assert desk.states(delivery) == [DeliveryState.DEAD_LETTERED]


def test_a_retry_whose_time_comes_while_held_waits_and_expires_like_the_others() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    _change(desk, PAUSED)
    desk.later(1_250)
    assert desk.send() == []
    desk.later(WINDOW_MS)
    desk.engine.review_held(desk.now_ms)
    assert desk.states(delivery) == [DeliveryState.RETRYING, DeliveryState.DEAD_LETTERED]
    assert desk.dead_letters()[0][1].attempt_count == 1


def test_held_endpoints_without_work_are_forgotten() -> None:
    desk = Desk(endpoint(), endpoint("ep_b", status=EndpointStatus.PAUSED))
    gone = desk.deliver("evt_1")
    cancelled = desk.deliver("evt_2", "ep_b")
    desk.answer(desk.one(), 410)
    desk.cancel(cancelled)
    for _ in range(3):
        desk.send()
        desk.engine.review_held(desk.now_ms)
    assert desk.states(gone) == [DeliveryState.DEAD_LETTERED]
    assert not desk.engine.state.queues
    assert not desk.engine.state.held
    assert not desk.engine.has_work


# 410 --------------------------------------------------------------------------------------


def test_410_disables_this_generation_and_holds_the_rest_until_a_higher_one() -> None:
    desk = Desk(endpoint(max_concurrency=1))
    gone, waiting = desk.deliver("evt_1"), desk.deliver("evt_2")
    desk.answer(desk.one(), 410)
    assert (desk.states(gone), desk.reason(gone)) == ([DeliveryState.DEAD_LETTERED], Reason.ENDPOINT_GONE)
    assert desk.send() == []
    ((report_of, generation),) = [(report.endpoint_id, report.generation) for report in desk.reports()]
    assert (report_of, generation) == ("ep_a", 1)

    desk.kill()
    assert desk.send() == []
    _change(desk, endpoint(revision=2))
    assert desk.send() == []
    _change(desk, endpoint(generation=2))
    assert desk.one().live.delivery.id == waiting.id


def test_410s_of_one_block_make_one_report() -> None:
    desk = Desk()
    for number in range(3):
        desk.deliver(f"evt_{number}")
    desk.answer(desk.send(), 410)
    assert len(desk.reports()) == 1
    assert len(desk.dead_letters()) == 3


def test_a_late_410_disables_the_generation_that_was_asked() -> None:
    desk = Desk()
    desk.deliver("evt_1")
    sent = desk.one()
    _change(desk, endpoint(generation=2))
    desk.answer(sent, 410)
    assert [report.generation for report in desk.reports()] == [1]
    desk.deliver("evt_2")
    assert len(desk.send()) == 1


def test_a_view_that_lags_behind_does_not_revive_a_gone_endpoint() -> None:
    desk = Desk(endpoint(generation=2))
    desk.deliver("evt_1")
    desk.answer(desk.one(), 410)
    _change(desk, endpoint(generation=1))
    desk.deliver("evt_2")
    assert desk.send() == []


# Retry-After ------------------------------------------------------------------------------


def test_retry_after_pauses_the_whole_endpoint_across_a_restart() -> None:
    desk = Desk(endpoint(max_concurrency=1))
    limited, waiting = desk.deliver("evt_1"), desk.deliver("evt_2")
    desk.answer(desk.one(), 429, headers=(("retry-after", "30"),))
    desk.kill()
    desk.later(29_999)
    assert desk.send() == []
    desk.later(1)
    assert {sent.live.delivery.id for sent in desk.settle_everything()} == {limited.id, waiting.id}
    assert desk.rows(Family.ENDPOINTS) == []


def test_a_longer_pause_stands_against_a_shorter_one() -> None:
    desk = Desk()
    desk.deliver("evt_1")
    desk.deliver("evt_2")
    one, other = desk.send()
    desk.answer(one, 429, headers=(("retry-after", "30"),))
    desk.answer(other, 429, headers=(("retry-after", "10"),))
    desk.deliver("evt_3")
    desk.later(29_999)
    assert desk.send() == []
    desk.later(1)
    assert len(desk.send()) == 3


def test_other_endpoints_go_on_during_a_pause() -> None:
    desk = Desk(endpoint("ep_a"), endpoint("ep_b"))
    desk.deliver("evt_1", "ep_a")
    desk.answer(desk.one(), 503, headers=(("retry-after", "30"),))
    desk.deliver("evt_2", "ep_a")
    desk.deliver("evt_2", "ep_b")
    assert [sent.endpoint.id for sent in desk.send()] == ["ep_b"]


def test_the_window_ends_during_a_pause_too() -> None:
    """A delivery must not stay past its window because its endpoint asked for patience."""
    desk = Desk()
    old = desk.deliver("evt_1")
    old_sent = desk.one()
    desk.later(WINDOW_MS - 10_000)
    desk.deliver("evt_2")
    desk.answer(desk.one(), 429, headers=(("retry-after", str(WINDOW_MS // 1_000)),))
    desk.answer(old_sent, 500)
    desk.later(10_001)
    desk.send()
    desk.engine.review_held(desk.now_ms)
    assert desk.states(old) == [DeliveryState.RETRYING, DeliveryState.DEAD_LETTERED]


def test_retry_after_of_a_cancelled_attempt_still_pauses() -> None:
    desk = Desk()
    cancelled = desk.deliver("evt_1")
    sent = desk.one()
    desk.cancel(cancelled)
    desk.answer(sent, 429, headers=(("retry-after", "30"),))
    desk.deliver("evt_2")
    assert desk.send() == []


def test_a_fault_of_ours_is_no_busy_loop() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), None, ErrorCode.OUR_FAULT)
    assert desk.send() == []
    desk.later(1_000)
    desk.answer(desk.one())
    assert [key.attempt_count for key, _ in desk.transitions(delivery)] == [1]


# Unknown and deleted ----------------------------------------------------------------------


def test_an_unknown_endpoint_parks_its_delivery_until_the_view_has_reached_the_match() -> None:
    desk = Desk()
    created = desk.deliver("evt_1", "ep_new", matched_at=5)
    assert desk.send() == []
    desk.view.position = 4
    desk.engine.review_held(desk.now_ms)
    assert desk.send() == []
    desk.view.by_id["ep_new"] = endpoint("ep_new")
    desk.view.position = 5
    desk.engine.review_held(desk.now_ms)  # nobody has to say that it came
    assert desk.one().live.delivery.id == created.id


def test_an_unknown_endpoint_is_deleted_once_the_view_has_reached_the_match() -> None:
    desk = Desk(policy=limits(endpoint_live_max=2, refill_max=2))
    deliveries = [desk.deliver(f"evt_{number}", "ep_x", matched_at=5) for number in range(7)]
    assert desk.send() == []
    assert [desk.states(delivery) for delivery in deliveries] == [[]] * 7
    desk.kill()
    desk.send()
    desk.view.position = 5
    desk.engine.review_held(desk.now_ms)
    desk.send()
    assert {desk.reason(delivery) for delivery in deliveries} == {Reason.ENDPOINT_DELETED}
    assert desk.rows(Family.PENDING) == desk.rows(Family.READY) == []
    assert not desk.engine.state.queues


def test_parking_is_bounded_in_memory() -> None:
    desk = Desk(policy=limits(live_max=20, endpoint_live_max=10, refill_max=4))
    for number in range(100):
        desk.deliver(f"evt_{number}", "ep_x", matched_at=5)
    for _ in range(3):
        desk.send()
        desk.engine.review_held(desk.now_ms)
    assert not desk.engine.state.live
    assert len(desk.rows(Family.READY)) == 100


def test_deletion_cancels_what_waits_even_during_a_pause() -> None:
    desk = Desk(endpoint(max_concurrency=1))
    deliveries = [desk.deliver(f"evt_{number}") for number in range(3)]
    desk.answer(desk.one(), 429, headers=(("retry-after", "30"),))
    desk.send()
    _delete(desk)
    desk.send()
    assert desk.states(deliveries[0]) == [DeliveryState.RETRYING]  # until its time comes
    assert desk.states(deliveries[1]) == desk.states(deliveries[2]) == [DeliveryState.CANCELLED]
    desk.later(30_000)
    desk.send()
    assert desk.states(deliveries[0])[-1] is DeliveryState.CANCELLED


def test_more_than_a_block_of_a_deleted_endpoint_is_cancelled_turn_by_turn() -> None:
    desk = Desk(policy=limits(endpoint_live_max=10))
    for number in range(1_200):
        desk.deliver(f"evt_{number}")
    desk.take()
    _delete(desk)
    turns = 0
    while desk.engine.has_work:
        desk.engine.next_block(desk.now_ms, 1)
        turns += 1
    assert turns == 3
    assert len(desk.transitions()) == 1_200


def test_an_empty_directory_still_knows_which_endpoints_are_gone() -> None:
    desk = Desk()
    desk.deliver("evt_1")
    desk.answer(desk.one(), 410)
    desk.publish()
    desk.kill(MemoryStore())

    desk.deliver("evt_2")

    assert desk.send() == []
