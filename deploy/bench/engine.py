"""The shard engine alone, on a real store, everything answered 200 at once; and how it grows.

The cost must not depend on how many endpoints are known or how many retries wait: the cases say so.
"""

from pathlib import Path

from dataflows.connectors.shard_store.rocks import RocksStore
from deploy.bench import load
from deploy.bench.figure import Figure, Meter, wait_until_quiet
from operators.shard.actions import Publish
from operators.shard.engine import ShardEngine
from operators.shard.live import Live
from operators.shard.policy import ShardPolicy
from operators.shard.store_port import ShardStore
from schemas import topics
from schemas.delivery import Lane
from schemas.endpoint import Endpoint
from schemas.outcome import Outcome

NOW_MS = 1_800_000_000_000
BLOCK = 500
BARRIER_EVERY = 4_000
PENDING_BLOCK = 5_000


class Endpoints:
    """A view over made-up endpoints."""

    position = 1

    def __init__(self, count: int) -> None:
        self.by_id = {
            load.endpoint_id(number): load.endpoint(number, "http://127.0.0.1/", NOW_MS)
            for number in range(count)
        }

    def get(self, key: str) -> Endpoint | None:
        """Returns the endpoint."""
        return self.by_id.get(key)


def run(directory: Path, count: int, endpoint_count: int = 1, pending_count: int = 0) -> Figure:
    """Measures accept, choose, settle and barrier of `count` deliveries; publishing is acknowledged at once.

    Args:
        directory: empty, for the store.
        count: deliveries.
        endpoint_count: known, and sent to in turn.
        pending_count: retries that wait for a time an hour ahead, on the same endpoints.
    """
    store = RocksStore.open(directory, shard=0, shard_count=1)
    try:
        return _run(store, count, endpoint_count, pending_count)
    finally:
        store.close()


def _run(store: ShardStore, count: int, endpoint_count: int, pending_count: int) -> Figure:
    endpoints = Endpoints(endpoint_count)
    engine = ShardEngine(
        0, 1, store, endpoints, ShardPolicy(endpoint_in_flight_max=512, endpoint_live_max=1_000)
    )
    engine.start(0, 0, {})
    names = list(endpoints.by_id)
    _fill_pending(engine, names, pending_count)
    wait_until_quiet()
    values = list(load.delivery_values(count, names, NOW_MS, load.body_of()))
    meter = Meter()
    done = 0
    with meter.running():
        for start in range(0, count, BLOCK):
            block = [(start + i, NOW_MS, b"", value) for i, value in enumerate(values[start : start + BLOCK])]
            engine.accept(block, NOW_MS)
            done += _send_all(engine)
            if start % BARRIER_EVERY == 0:
                engine.barrier()
        done += _send_all(engine)
        engine.barrier()
    assert done == count, (done, count)
    return meter.figure("engine", f"{endpoint_count:,} endpoints, {pending_count:,} pending", count)


def _send_all(engine: ShardEngine) -> int:
    done = 0
    while chosen := engine.next_block(NOW_MS, BLOCK):
        outcomes = [
            Outcome(
                token=(0, dispatch.live.offset),
                started_at_ms=NOW_MS,
                finished_at_ms=NOW_MS + 5,
                status=200,
                peer="127.0.0.1:80",
                total_us=5_000,
            )
            for dispatch in chosen
        ]
        engine.settle(outcomes, NOW_MS)
        _acknowledge(engine, engine.take_publishes())
        done += len(outcomes)
    if engine.next_timer_at_ms() <= NOW_MS:
        engine.fire_timers(NOW_MS)
    return done


def _acknowledge(engine: ShardEngine, rows: list[Publish]) -> None:
    if rows:
        engine.acked(topics.TRANSITIONS.name, [row.sequence for row in rows], rows[0].sequence)


def _fill_pending(engine: ShardEngine, names: list[str], pending_count: int) -> None:
    """Writes retries as `settle` would: `pending`, `due` and `seen`."""
    state = engine.state
    body = load.body_of(200)
    for start in range(0, pending_count, PENDING_BLOCK):
        batch = state.store.batch()
        for number in range(start, min(start + PENDING_BLOCK, pending_count)):
            waiting = load.delivery(10_000_000 + number, names[number % len(names)], NOW_MS, body)
            live = Live(100_000_000 + number, Lane.RETRY, waiting, NOW_MS, NOW_MS)
            live.attempt_count = live.schedule_step = 1
            state.put_due(batch, live, NOW_MS + 3_600_000 + number)
        state.store.write(batch)
