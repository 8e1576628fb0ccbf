"""Records that cannot be read, and records that kill: kept with their position, in nobody's way."""

from collections.abc import Mapping, Sequence

import pytest

from operators.rejection import VALUE_BYTES_MAX
from operators.shard.store_port import Family
from operators.suspicion import Parking, Phase
from schemas.command import CommandKind
from schemas.delivery import Delivery, DeliveryState
from schemas.transition import Reason
from tests.operators.shard.desk import Desk, limits


@pytest.mark.parametrize(
    "value",
    [None, b"", b"?", b"D\x02\x90", b"D\x01\x9b\xa1\xff", b"D\x01" + b"\x91" * 100_000],
    ids=["no value", "empty", "unknown", "a newer version", "not UTF-8", "deep"],
)
def test_an_unreadable_record_is_kept_and_its_neighbours_are_delivered(value: bytes | None) -> None:
    desk = Desk()
    before = desk.deliver("evt_1")
    offset = desk.write(value)
    after = desk.deliver("evt_2")
    desk.settle_everything()

    (rejected,) = desk.rejected()
    assert (rejected.topic, rejected.partition, rejected.offset) == ("deliveries", 0, offset)
    assert (rejected.value, rejected.reason) == (value, "unreadable")
    assert rejected.detail
    assert desk.states(before) == desk.states(after) == [DeliveryState.DELIVERED]


def test_a_record_of_hostile_size_is_cut_so_that_it_can_be_published() -> None:
    desk = Desk()
    desk.write(b"x" * (4 << 20))
    desk.take()
    (rejected,) = desk.rejected()
    assert rejected.value == b"x" * VALUE_BYTES_MAX


def test_a_record_that_is_rejected_again_is_the_same_entry() -> None:
    desk = Desk()
    desk.write(b"?")
    desk.take()
    desk.publish()
    desk.now_ms += 1_000
    desk.kill()
    desk.take()
    desk.publish()
    first, second = desk.records["rejected"]
    assert first == second


class Parked:
    """Tries in which some records are parked already; `begun` was tried, `passed` came through."""

    is_wary = True

    def __init__(self, parked: Mapping[int, Parking]) -> None:
        self.parked = parked
        self.begun: list[tuple[Phase, tuple[int, ...]]] = []
        self.passed: list[tuple[Phase, tuple[int, ...]]] = []
        self.noted: list[int] = []

    def group(self, offset: int) -> int:
        return 1 if offset in self.parked else 0

    def begin(self, phase: Phase, offsets: Sequence[int]) -> None:
        self.begun.append((phase, tuple(offsets)))

    def turn(self, phase: Phase) -> None:
        self.done()
        self.begun.append((phase, self.begun[-1][1]))

    def done(self) -> None:
        self.passed.append(self.begun[-1])

    def note_parked(self, offset: int) -> None:
        self.noted.append(offset)


def park(desk: Desk, offset: int, phase: Phase = Phase.SEND, deaths: int = 3) -> Parked:
    """Parks one record in the engine that runs now."""
    tries = Parked({offset: Parking(phase, deaths)})
    desk.engine.state.tries = tries
    return tries


def take_parked(desk: Desk, offset: int) -> None:
    """Takes what is before the record, and parks it, as the host does."""
    desk.engine.accept(desk.log[desk.engine.state.next_offset : offset], desk.now_ms)
    desk.engine.park(desk.log[offset], desk.now_ms)


def dead_with(desk: Desk, delivery: Delivery) -> tuple[list[DeliveryState], list[str], list[bytes]]:
    return (
        desk.states(delivery),
        [letter.reason for _, letter in desk.dead_letters()],
        [letter.delivery.body for _, letter in desk.dead_letters()],
    )


def test_a_parked_delivery_ends_as_a_dead_letter_and_its_neighbours_are_delivered() -> None:
    desk = Desk()
    before, deadly, after = desk.deliver("evt_1"), desk.deliver("evt_2"), desk.deliver("evt_3")
    tries = park(desk, 1)
    take_parked(desk, 1)
    desk.settle_everything()
    assert dead_with(desk, deadly) == ([DeliveryState.DEAD_LETTERED], [Reason.POISON], [b"evt_2"])
    assert desk.states(before) == desk.states(after) == [DeliveryState.DELIVERED]
    assert desk.rejected() == []
    assert tries.noted == [1]
    assert tries.begun[-1] == tries.passed[-1]


def test_parking_again_after_a_crash_says_nothing_new() -> None:
    desk = Desk()
    deadly = desk.deliver("evt_1")
    park(desk, 0)
    take_parked(desk, 0)
    desk.publish()
    desk.kill()
    park(desk, 0)
    take_parked(desk, 0)
    desk.settle_everything()
    assert desk.states(deadly) == [DeliveryState.DEAD_LETTERED]
    assert len(desk.dead_letters()) == 1


@pytest.mark.parametrize("deaths", [3, 4])
def test_a_record_that_kills_its_readers_is_rejected_without_being_read(deaths: int) -> None:
    desk = Desk()
    deadly = desk.deliver("evt_1")
    park(desk, 0, Phase.DECODE, deaths)
    take_parked(desk, 0)
    (rejected,) = desk.rejected()
    assert (rejected.topic, rejected.partition, rejected.offset) == ("deliveries", 0, 0)
    assert rejected.reason == "poison"
    assert rejected.value == (desk.log[0][3] if deaths == 3 else None)
    assert desk.states(deadly) == []
    assert desk.settle_everything() == []


def test_a_dead_letter_that_kills_is_kept_without_its_body() -> None:
    desk = Desk()
    deadly = desk.deliver("evt_1")
    park(desk, 0, Phase.SAVE, deaths=4)
    take_parked(desk, 0)
    assert dead_with(desk, deadly) == ([DeliveryState.DEAD_LETTERED], [Reason.POISON], [b""])


def test_a_parked_repeat_of_a_delivered_delivery_leaves_it_delivered() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.settle_everything()
    desk.again(delivery)
    park(desk, 1)
    take_parked(desk, 1)
    assert desk.states(delivery) == [DeliveryState.DELIVERED]
    assert desk.dead_letters() == []


def test_a_parked_repeat_with_another_body_is_a_dead_letter_of_its_own() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.settle_everything()
    desk.deliver("evt_1", data=b"other")
    park(desk, 1)
    take_parked(desk, 1)
    assert desk.states(delivery) == [DeliveryState.DELIVERED]
    ((key, letter),) = desk.dead_letters()
    assert key.name == f"{delivery.id}@0.1"
    assert (letter.reason, letter.delivery.body) == (Reason.POISON, b"other")


@pytest.mark.parametrize("value", [b"?", None])
def test_a_parked_record_that_is_no_delivery_is_rejected(value: bytes | None) -> None:
    desk = Desk()
    desk.write(value)
    park(desk, 0, Phase.ACCEPT)
    take_parked(desk, 0)
    assert [(one.offset, one.reason, one.value) for one in desk.rejected()] == [(0, "poison", value)]


def test_a_parked_command_is_rejected_and_not_applied() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.command(CommandKind.CANCEL, delivery)
    park(desk, 1, Phase.ACCEPT)
    take_parked(desk, 1)
    desk.settle_everything()
    assert desk.states(delivery) == [DeliveryState.DELIVERED]
    assert [one.offset for one in desk.rejected()] == [1]


def test_a_parked_record_that_was_taken_before_is_skipped() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.settle_everything()
    park(desk, 0)
    desk.engine.park(desk.log[0], desk.now_ms)
    assert desk.states(delivery) == [DeliveryState.DELIVERED]


def test_a_parked_delivery_that_waits_in_the_store_is_not_sent_any_more() -> None:
    desk = Desk(policy=limits(endpoint_live_max=1, refill_max=8))
    deliveries = [desk.deliver(f"evt_{number}") for number in range(6)]
    desk.take()
    tries = park(desk, 3)
    sent = desk.settle_everything()
    assert [dispatch.live.offset for dispatch in sent] == [0, 1, 2, 4, 5]
    assert dead_with(desk, deliveries[3]) == ([DeliveryState.DEAD_LETTERED], [Reason.POISON], [b"evt_3"])
    assert (Phase.READ, (3,)) in tries.passed, "it is read alone"
    assert tries.noted == [3]
    assert desk.rows(Family.PENDING) == desk.rows(Family.READY) == []


@pytest.mark.parametrize("waits", ["ready", "due"])
def test_a_stored_delivery_that_kills_its_readers_is_rejected_by_its_position(waits: str) -> None:
    desk = Desk(policy=limits(endpoint_live_max=1 if waits == "ready" else 256, refill_max=8))
    deliveries = [desk.deliver(f"evt_{number}") for number in range(6)]
    if waits == "ready":
        desk.take()
    else:
        desk.answer(desk.send(), 500)
    tries = park(desk, 3, Phase.READ)
    desk.later(10_000)
    desk.settle_everything()
    assert [(one.offset, one.reason, one.value) for one in desk.rejected()] == [(3, "poison", None)]
    assert (Phase.READ, (3,)) in tries.passed
    assert tries.noted == [3]
    others = [delivery for number, delivery in enumerate(deliveries) if number != 3]
    assert {desk.states(delivery)[-1] for delivery in others} == {DeliveryState.DELIVERED}
    assert DeliveryState.DELIVERED not in desk.states(deliveries[3])
    assert desk.rows(Family.PENDING) == desk.rows(Family.READY) == desk.rows(Family.DUE) == []


def test_every_piece_of_work_is_a_try_of_its_records_and_passes() -> None:
    desk = Desk(policy=limits(endpoint_live_max=2))
    tries = park(desk, 999)
    for number in range(4):
        desk.deliver(f"evt_{number}")
    desk.take()
    desk.engine.barrier()
    desk.answer(desk.send(), 500)
    desk.later(10_000)
    assert tries.begun == tries.passed
    phases: dict[Phase, set[int]] = {phase: set() for phase in Phase}
    for phase, offsets in tries.begun:
        phases[phase] |= set(offsets)
    assert phases[Phase.DECODE] == phases[Phase.ACCEPT] == phases[Phase.READ] == {0, 1, 2, 3}
    assert phases[Phase.SAVE] <= {0, 1, 2, 3}
