"""A delivery id is sent once, wherever its second record comes from and whatever has happened in between."""

import pytest
from msgspec.structs import replace

from operators.shard.policy import DAY_MS, GENERATION_MS, SEEN_MS, TOO_OLD_MS
from schemas.command import CommandKind
from schemas.delivery import DeliveryState
from schemas.transition import Reason
from tests.operators.shard.desk import RETRY, START_MS, WINDOW_MS, Desk, endpoint, limits


def test_a_repeat_in_the_same_block_is_dropped() -> None:
    desk = Desk()
    desk.again(desk.deliver("evt_1"))
    assert len(desk.settle_everything()) == 1


@pytest.mark.parametrize(
    "stage", ["queued", "in flight", "delivered", "waiting", "spilled", "dead", "cancelled"]
)
def test_a_repeat_in_a_later_block_is_dropped(stage: str) -> None:
    desk = Desk(endpoint(max_concurrency=1), policy=limits(endpoint_live_max=1))
    if stage == "spilled":
        desk.deliver("evt_0")
        desk.deliver("evt_00")
    delivery = desk.deliver("evt_1")
    desk.take()
    if stage == "cancelled":
        desk.cancel(delivery)
    elif stage not in ("queued", "spilled"):
        sent = desk.one()
        status = {"delivered": 200, "waiting": 500, "dead": 404}.get(stage)
        if status is not None:
            desk.answer(sent, status)
    desk.again(delivery)
    desk.take()
    if stage == "in flight":
        desk.answer(sent)
    desk.settle_everything()
    desk.later(1_250)
    desk.settle_everything()
    ends = [state for state in desk.states(delivery) if state.is_final]
    expected = {"dead": DeliveryState.DEAD_LETTERED, "cancelled": DeliveryState.CANCELLED}
    assert ends == [expected.get(stage, DeliveryState.DELIVERED)]


@pytest.mark.parametrize("has_barrier", [False, True])
def test_a_repeat_across_a_restart_is_dropped(has_barrier: bool) -> None:  # noqa: FBT001 - a parameter
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.settle_everything()
    if has_barrier:
        desk.engine.barrier()
    desk.kill()
    desk.again(delivery)
    assert desk.send() == []
    assert desk.states(delivery) == [DeliveryState.DELIVERED]


def test_a_repeat_behind_its_own_cancel_stays_cancelled() -> None:
    """The look-up of a block comes before its commands; what a command ended must still be known."""
    for blocks in (1, 2):
        desk = Desk()
        delivery = desk.deliver("evt_1")
        if blocks == 2:
            desk.take()
        desk.command(CommandKind.CANCEL, delivery)
        desk.again(delivery)
        assert desk.send() == []
        assert desk.states(delivery) == [DeliveryState.CANCELLED]


def test_a_replay_is_a_delivery_of_its_own() -> None:
    desk = Desk()
    desk.deliver("evt_1")
    desk.deliver("evt_1", replay_id="rpl_1")
    assert len(desk.settle_everything()) == 2


@pytest.mark.parametrize("stage", ["queued", "delivered", "waiting"])
def test_another_body_under_the_same_id_is_a_dead_letter_and_leaves_the_first_alone(stage: str) -> None:
    desk = Desk()
    first = desk.deliver("evt_1")
    desk.take()
    if stage != "queued":
        desk.answer(desk.one(), 200 if stage == "delivered" else 500)
    second = desk.deliver("evt_1", data=b"another body")
    desk.take()
    desk.later(1_250)
    desk.settle_everything()

    ((key, letter),) = desk.dead_letters()
    position = second.event_position
    assert key.name == f"{first.id}@{position.partition}.{position.offset}"
    assert (letter.reason, letter.delivery.body) == (Reason.IDEMPOTENCY_CONFLICT, b"another body")
    assert desk.states(first)[-1] is DeliveryState.DELIVERED
    assert [s for s in desk.states(first) if s.is_final] == [DeliveryState.DELIVERED]


def test_an_unknown_delivery_of_an_old_event_is_a_dead_letter_by_position() -> None:
    desk = Desk()
    desk.deliver("evt_new")
    just = desk.deliver("evt_just", recorded_at_ms=START_MS - TOO_OLD_MS)
    old = desk.deliver("evt_old", recorded_at_ms=START_MS - TOO_OLD_MS - 1)
    desk.settle_everything()

    assert desk.states(just) == [DeliveryState.DELIVERED]
    assert desk.states(old) == []
    ((key, letter),) = desk.dead_letters()
    assert (key.name, letter.reason) == (f"{old.id}@0.{old.event_position.offset}", Reason.TOO_OLD)


def test_a_known_delivery_of_an_old_event_is_just_a_repeat() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.settle_everything()
    desk.deliver("evt_2", recorded_at_ms=START_MS + 8 * DAY_MS)
    desk.again(delivery)
    desk.settle_everything()
    assert desk.dead_letters() == []


def test_what_is_too_old_stays_so_after_a_crash() -> None:
    """The highest record time is stored by the barrier only: repeats have to raise it again."""
    desk = Desk()
    desk.deliver("evt_new")
    old = desk.deliver("evt_old", recorded_at_ms=START_MS - TOO_OLD_MS - 1)
    desk.settle_everything()
    desk.kill()
    assert desk.settle_everything() == []
    assert {letter.reason for _, letter in desk.dead_letters()} == {Reason.TOO_OLD}
    assert desk.states(old) == []


def test_what_is_past_its_window_at_fan_out_is_a_dead_letter() -> None:
    desk = Desk()
    late = desk.deliver("evt_1")
    desk.now_ms += WINDOW_MS
    in_time = desk.deliver("evt_2")
    desk.now_ms += 1
    desk.settle_everything()
    assert (desk.states(late), desk.reason(late)) == ([DeliveryState.DEAD_LETTERED], Reason.EXPIRED)
    assert desk.states(in_time) == [DeliveryState.DELIVERED]
    assert [key.name for key, _ in desk.dead_letters()] == [late.id]


def test_an_endpoint_with_a_longer_window_of_its_own_has_it_here_too() -> None:
    desk = Desk(endpoint(retry=replace(RETRY, window_ms=3 * WINDOW_MS)))
    delivery = desk.deliver("evt_1")
    desk.now_ms += 2 * WINDOW_MS
    desk.settle_everything()
    assert desk.states(delivery) == [DeliveryState.DELIVERED]


def test_a_generation_of_seen_is_dropped_when_it_lies_behind_its_reach_and_not_before() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.settle_everything()
    desk.engine.barrier()
    generation = START_MS // GENERATION_MS
    last_needed_ms = (generation + 1) * GENERATION_MS - 1 + SEEN_MS

    desk.now_ms = last_needed_ms
    desk.deliver("evt_2")
    desk.settle_everything()
    desk.engine.barrier()
    assert generation in desk.store.generations()
    desk.again(delivery)
    assert desk.send() == []

    desk.now_ms += 1
    desk.deliver("evt_3")
    desk.settle_everything()
    desk.engine.barrier()
    assert generation not in desk.store.generations()
    desk.again(delivery)
    assert desk.send() == []
    assert (
        desk.dead_letters()[-1][1].reason is Reason.TOO_OLD
    )  # what `seen` forgot is refused, never sent again


def test_seen_keeps_a_bounded_number_of_generations() -> None:
    desk = Desk()
    for day in range(60):
        desk.now_ms = START_MS + day * DAY_MS
        desk.deliver(f"evt_{day}")
        desk.settle_everything()
        desk.engine.barrier()
        assert len(desk.store.generations()) <= SEEN_MS // GENERATION_MS + 2


def test_a_log_whose_clock_runs_ahead_makes_nothing_too_old() -> None:
    desk = Desk()
    desk.deliver("evt_ahead", recorded_at_ms=START_MS + 400 * DAY_MS)
    desk.settle_everything()
    desk.engine.barrier()

    late = desk.deliver("evt_now")

    assert [sent.live.delivery.id for sent in desk.settle_everything()] == [late.id]


def test_a_record_time_before_1970_is_no_poison() -> None:
    desk = Desk()
    desk.deliver("evt_1", recorded_at_ms=-1)

    assert len(desk.settle_everything()) == 1
