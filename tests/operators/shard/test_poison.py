"""Records that cannot be read: kept with their position, and never in the way of their neighbours."""

import pytest

from operators.rejection import VALUE_BYTES_MAX
from schemas.delivery import DeliveryState
from tests.operators.shard.desk import Desk


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
