"""Work is proportional to what is sent: counted in calls of the store, not in seconds."""

from collections import Counter
from collections.abc import Sequence

import pytest

from dataflows.connectors.shard_store.memory import MemoryStore
from operators.shard.store_port import Batch, Family
from schemas.endpoint import EndpointStatus
from tests.operators.shard.desk import Desk, endpoint, limits


class CountingStore(MemoryStore):
    """Counts the calls that a RocksDB would have to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def write(self, batch: Batch) -> None:
        self.calls["write"] += 1
        super().write(batch)

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        self.calls["get_many"] += 1
        self.calls["rows"] += len(keys)
        return super().get_many(family, keys)

    def get(self, family: Family, key: bytes) -> bytes | None:
        self.calls["get"] += 1
        return super().get(family, key)

    def get_seen(self, generation: int, keys: Sequence[bytes]) -> list[bytes | None]:
        self.calls["get_seen"] += 1
        return super().get_seen(generation, keys)

    def scan(self, family: Family, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        self.calls["scan"] += 1
        return super().scan(family, start, end, limit)

    def seek(self, family: Family, start: bytes) -> bytes | None:
        self.calls["seek"] += 1
        return super().seek(family, start)


def _counting(desk: Desk) -> CountingStore:
    store = CountingStore()
    desk.kill(store)
    return store


def _busy_desk(idle_count: int) -> tuple[Desk, CountingStore]:
    """Returns a desk with one active endpoint among many that the shard has dealt with before."""
    names = [f"ep_{number}" for number in range(idle_count)]
    desk = Desk(endpoint(), *map(endpoint, names))
    store = _counting(desk)
    for name in names:
        desk.deliver("evt_0", name)
    desk.settle_everything()
    desk.publish()
    desk.engine.barrier()
    store.calls.clear()
    return desk, store


@pytest.mark.parametrize("idle_count", [0, 1, 2_000])
def test_idle_endpoints_cost_nothing(idle_count: int) -> None:
    desk, store = _busy_desk(idle_count)
    assert not desk.engine.state.queues
    assert not desk.engine.has_work
    desk.engine.next_block(desk.now_ms, 1_000)
    assert not store.calls
    for number in range(100):
        desk.deliver(f"evt_{number}")
    desk.answer(desk.send(64))
    # One look-up of the block, one scan of the timers (at most), one batch of outcomes.
    assert sum(store.calls.values()) <= 3
    assert len(desk.engine.state.queues) == 1


@pytest.mark.parametrize("waiting_count", [0, 1, 1_000])
def test_waiting_retries_cost_nothing_until_their_time_is_near(waiting_count: int) -> None:
    desk = Desk(endpoint(), endpoint("ep_b"))
    store = _counting(desk)
    for number in range(waiting_count):
        desk.deliver(f"evt_{number}", "ep_b")
    desk.settle_everything(500)
    desk.later(1_250)
    desk.settle_everything(500)  # the next delay is 5 s: beyond the horizon of another start
    desk.publish()
    desk.kill()
    desk.fire()
    store.calls.clear()
    assert not desk.engine.state.live
    desk.deliver("evt_new")
    desk.answer(desk.send())
    assert sum(store.calls.values()) <= 3


@pytest.mark.parametrize("held_count", [10, 300])
def test_a_review_of_held_endpoints_asks_the_store_only_when_a_window_ends(held_count: int) -> None:
    names = [f"ep_{number}" for number in range(held_count)]
    desk = Desk(*(endpoint(name, status=EndpointStatus.PAUSED) for name in names))
    store = _counting(desk)
    for name in names:
        desk.deliver("evt_1", name)
    desk.send()
    desk.engine.review_held(desk.now_ms)
    store.calls.clear()
    for _ in range(10):
        desk.now_ms += 1_000
        desk.engine.review_held(desk.now_ms)
    assert not store.calls


def test_a_backlog_is_read_back_in_blocks() -> None:
    desk = Desk(
        endpoint(max_concurrency=1_000), policy=limits(live_max=150, endpoint_live_max=100, refill_max=100)
    )
    store = _counting(desk)
    for number in range(1_000):
        desk.deliver(f"evt_{number}")
    desk.take()
    desk.engine.barrier()
    store.calls.clear()
    assert len(desk.settle_everything()) == 1_000
    assert store.calls["scan"] + store.calls["get_many"] <= 30


def test_a_full_memory_reads_no_row_that_it_gives_back() -> None:
    desk = Desk(endpoint("ep_a"), endpoint("ep_b", max_concurrency=1), policy=limits(live_max=20))
    store = _counting(desk)
    for number in range(20):
        desk.deliver(f"evt_{number}", "ep_b")
    desk.send()
    for number in range(100):
        desk.deliver(f"evt_{number}", "ep_a")
    desk.take()
    store.calls.clear()
    for _ in range(10):
        block = [sent for sent in desk.send(10) if sent.endpoint.id == "ep_a"]
        desk.answer(block)
    assert store.calls["rows"] <= 110
