"""What a shard holds in memory is bounded under any input, and the bounds lose nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.shard.actions import Dispatch
from operators.shard.live import Stage
from operators.shard.state import LIVE_OVERHEAD_BYTES
from operators.shard.store_port import Family
from schemas.endpoint import EndpointStatus
from schemas.outcome import ErrorCode
from tests.operators.shard.desk import Desk, endpoint, limits
from tests.simulation.store_audit import audit

SLOTS = 5
BODY_BYTES_MAX = 3_000
NAMES = ["ep_a", "ep_b", "ep_c", "ep_d"]
STEPS = st.one_of(
    st.tuples(st.just("deliver"), st.sampled_from([*NAMES, "ep_unknown"]), st.integers(1, 12)),
    st.tuples(st.just("send"), st.just(""), st.integers(1, SLOTS)),
    st.tuples(
        st.just("answer"), st.sampled_from(["200", "500", "404", "429", "ours"]), st.integers(1, SLOTS)
    ),
    st.tuples(st.just("later"), st.just(""), st.sampled_from([10, 1_000, 20_000])),
    st.tuples(st.just("status"), st.sampled_from(NAMES), st.integers(0, 1)),
    st.tuples(st.just("barrier"), st.just(""), st.just(0)),
    st.tuples(st.just("kill"), st.just(""), st.just(0)),
)


class Bounded:
    """A desk that keeps count of what its bounds must hold."""

    def __init__(self, live_max: int, live_bytes_max: int, endpoint_live_max: int, unsaved_max: int) -> None:
        self.policy = limits(
            live_max=live_max,
            live_bytes_max=live_bytes_max,
            endpoint_live_max=endpoint_live_max,
            unsaved_max=unsaved_max,
            refill_max=3,
        )
        self.desk = Desk(*map(endpoint, NAMES), policy=self.policy)
        self.delivered = 0
        self._dispatches: list[Dispatch] = []

    def finish(self) -> None:
        """Goes on until nothing is left."""
        desk = self.desk
        self.step("answer", "200", SLOTS)
        for name in NAMES:
            self.step("status", name, 1)
        for _ in range(100):
            while block := desk.send(SLOTS):
                self._dispatches = block
                self.check()
                self.step("answer", "200", SLOTS)
            if desk.store.seek(Family.PENDING, b"") is None and not desk.engine.state.live:
                return
            self.step("later", "", 20_000)
        raise AssertionError(f"left: {desk.rows(Family.PENDING)[:1]} {desk.engine.state.live}")

    def step(self, kind: str, name: str, count: int) -> None:
        desk = self.desk
        match kind:
            case "deliver":
                for _ in range(count):
                    self.delivered += 1
                    body = b"x" * (self.delivered * 97 % BODY_BYTES_MAX)
                    desk.deliver(f"evt_{self.delivered}", name, data=body)
                desk.take()
            case "send":
                self._dispatches += desk.send(min(count, SLOTS - len(self._dispatches)))
            case "answer":
                answered, self._dispatches = self._dispatches[:count], self._dispatches[count:]
                error = ErrorCode.OUR_FAULT if name == "ours" else ErrorCode.NONE
                headers = (("retry-after", "2"),) if name == "429" else ()
                desk.answer(answered, None if name == "ours" else int(name), error, headers)
            case "later":
                desk.later(count)
                desk.engine.review_held(desk.now_ms)
            case "status":
                status = EndpointStatus.ACTIVE if count else EndpointStatus.PAUSED
                desk.view.by_id[name] = endpoint(name, status=status)
                desk.engine.wake(name)
            case "barrier":
                desk.engine.barrier()
            case "kill":
                self._dispatches.clear()
                desk.kill()

    def check(self) -> None:
        state, policy = self.desk.engine.state, self.policy
        assert len(state.live) == len(state.by_id) <= policy.live_max + SLOTS
        assert len(state.unsaved) <= policy.unsaved_max
        most = policy.live_bytes_max + (SLOTS + 1) * (BODY_BYTES_MAX + LIVE_OVERHEAD_BYTES)
        assert state.live_bytes <= most
        counted = sum(len(live.delivery.body) + LIVE_OVERHEAD_BYTES for live in state.live.values())
        assert state.live_bytes == counted
        in_flight = sum(live.stage is Stage.IN_FLIGHT for live in state.live.values())
        assert state.in_flight_count == in_flight == len(self._dispatches)
        for queue in state.queues.values():
            assert max(map(len, queue.lanes)) <= max(policy.endpoint_live_max, policy.refill_max) + SLOTS
        audit(self.desk.store)


@settings(max_examples=150)
@given(
    steps=st.lists(STEPS, max_size=40),
    live_max=st.integers(1, 10),
    live_bytes_max=st.integers(1, 20_000),
    endpoint_live_max=st.integers(1, 5),
    unsaved_max=st.integers(1, 10),
)
def test_bounds_hold_under_any_input_and_nothing_is_lost(
    steps: list[tuple[str, str, int]],
    live_max: int,
    live_bytes_max: int,
    endpoint_live_max: int,
    unsaved_max: int,
) -> None:
    bounded = Bounded(live_max, live_bytes_max, endpoint_live_max, unsaved_max)
    for step in steps:
        bounded.step(*step)
        bounded.check()
    bounded.finish()

    ends = [key.delivery_id for key, _ in bounded.desk.transitions() if key.state.is_final]
    assert len(ends) == len(set(ends)) == bounded.delivered
    state = bounded.desk.engine.state
    assert (state.live_bytes, len(state.unsaved), len(state.held), len(state.by_id)) == (0, 0, 0, 0)


@pytest.mark.parametrize("status", [EndpointStatus.ACTIVE, EndpointStatus.PAUSED])
def test_a_backlog_at_many_endpoints_does_not_fill_the_memory(status: EndpointStatus) -> None:
    """Each endpoint may have a few in memory, but not all endpoints together more than the shard may."""
    names = [f"ep_{number}" for number in range(60)]
    desk = Desk(
        *(endpoint(name, status=status) for name in names),
        policy=limits(live_max=50, endpoint_live_max=16, refill_max=16),
    )
    for number in range(20):
        for name in names:
            desk.deliver(f"evt_{number}", name)
    sent = 0
    for _ in range(200):
        block = desk.send(10)
        assert len(desk.engine.state.live) <= 60
        desk.answer(block)
        sent += len(block)
        desk.engine.review_held(desk.now_ms)
    assert sent == (1_200 if status is EndpointStatus.ACTIVE else 0)


def test_a_full_memory_of_large_bodies_still_moves() -> None:
    desk = Desk(policy=limits(live_bytes_max=10_000))
    for number in range(30):
        desk.deliver(f"evt_{number}", data=b"x" * 100_000)
    sent = 0
    while block := desk.send(2):
        assert desk.engine.state.live_bytes < 10_000 + 3 * (100_000 + LIVE_OVERHEAD_BYTES)
        sent += len(block)
        desk.answer(block)
    assert sent == 30
