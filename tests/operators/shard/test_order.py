"""First attempts to one endpoint start in the order of `deliveries`, through memory, store and crashes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.delivery import Delivery
from schemas.outcome import ErrorCode
from tests.operators.shard.desk import Desk, endpoint, limits


def _offsets(desk: Desk) -> list[int]:
    return [dispatch.live.offset for dispatch in desk.settle_everything()]


@pytest.mark.parametrize("endpoint_live_max", [1, 3, 256])
@pytest.mark.parametrize("refill_max", [1, 2, 128])
def test_deliveries_start_in_order_through_spilling(endpoint_live_max: int, refill_max: int) -> None:
    desk = Desk(
        endpoint(max_concurrency=2), policy=limits(endpoint_live_max=endpoint_live_max, refill_max=refill_max)
    )
    for number in range(30):
        desk.deliver(f"evt_{number}")
    assert _offsets(desk) == list(range(30))


@given(
    steps=st.lists(st.sampled_from(["deliver", "deliver", "send", "barrier", "kill"]), max_size=60),
    endpoint_live_max=st.integers(1, 4),
    refill_max=st.integers(1, 4),
    live_max=st.integers(1, 6),
)
def test_order_holds_whatever_comes_between(
    steps: list[str], endpoint_live_max: int, refill_max: int, live_max: int
) -> None:
    """Also when the process dies: what was only in memory is older than what was spilled behind it."""
    desk = Desk(
        endpoint(max_concurrency=2),
        policy=limits(endpoint_live_max=endpoint_live_max, refill_max=refill_max, live_max=live_max),
    )
    started: list[int] = []
    expected: list[Delivery] = []
    for step in [*steps, "send", "end"]:
        if step == "deliver":
            expected.append(desk.deliver(f"evt_{len(expected)}"))
            if len(expected) % 3:
                desk.take()
        elif step == "send":
            block = desk.send(3)
            started += [dispatch.live.offset for dispatch in block]
            desk.answer(block)
        elif step == "barrier":
            desk.engine.barrier()
        elif step == "kill":
            desk.kill()
            block = desk.engine.next_block(desk.now_ms, 3)  # before the log is read again
            started += [dispatch.live.offset for dispatch in block]
            desk.answer(block)
    started += _offsets(desk)
    assert started == list(range(len(expected)))


def test_what_our_side_cut_off_goes_back_to_the_head_in_order() -> None:
    desk = Desk()
    for number in range(6):
        desk.deliver(f"evt_{number}")
    block = desk.send(4)
    desk.answer([block[2], block[0], block[3], block[1]], None, ErrorCode.OUR_SHUTDOWN)
    assert _offsets(desk) == list(range(6))


def test_a_retry_does_not_wait_behind_all_that_is_fresh() -> None:
    desk = Desk(endpoint(max_concurrency=1))
    failing = desk.deliver("evt_0")
    desk.answer(desk.one(), 500)
    for number in range(1, 40):
        desk.deliver(f"evt_{number}")
    desk.later(1_250)
    first_six = []
    for _ in range(6):
        sent = desk.one()
        first_six.append(sent.live.delivery.id)
        desk.answer(sent)
    assert failing.id in first_six


def test_endpoints_take_turns() -> None:
    desk = Desk(endpoint("ep_a"), endpoint("ep_b"))
    for number in range(100):
        desk.deliver(f"evt_{number}", "ep_a")
    desk.deliver("evt_b", "ep_b")
    block = desk.send(32)
    assert "ep_b" in {dispatch.endpoint.id for dispatch in block}
    assert len(block) == 32
