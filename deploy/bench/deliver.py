"""The whole `deliver` dataflow over a local log, with a sender that answers 200 at once, or the real one."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from dataflows.connectors.log.port import Entry
from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from dataflows.connectors.sender.port import Sender
from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.engine.flow_runner import run_flow
from dataflows.engine.stop import StopSignal
from dataflows.flows.deliver import Deliver
from deploy.bench import load
from deploy.bench.figure import Figure, Meter
from deploy.bench.sink_process import sink
from deploy.bench.world import BenchWorld, bench_world, clock_ms
from operators.shard.policy import ShardPolicy
from schemas import topics
from schemas.ids import partition_of
from schemas.outcome import Outcome, PreparedRequest
from schemas.settings import DeliverSettings, EgressSettings


class AnsweringSender:
    """A `Sender` without a network: everything is answered 200 when it is collected."""

    def __init__(self) -> None:
        self._waiting: deque[PreparedRequest] = deque()
        self.submitted_count = 0

    def submit(self, requests: Sequence[PreparedRequest]) -> None:
        """Takes the requests."""
        self._waiting.extend(requests)
        self.submitted_count += len(requests)

    def collect(self, outcomes_max: int = 1_000) -> list[Outcome]:
        """Answers them."""
        now_ms = clock_ms()
        return [
            Outcome(
                token=self._waiting.popleft().token, started_at_ms=now_ms, finished_at_ms=now_ms, status=200
            )
            for _ in range(min(outcomes_max, len(self._waiting)))
        ]

    @property
    def in_flight_count(self) -> int:
        """How many were not collected."""
        return len(self._waiting)

    def close(self, deadline_s: float) -> None:
        """Nothing to free."""
        del deadline_s


def make_deliver(
    world: BenchWorld, sender: Sender, stop: StopSignal, beat: Callable[[], None] = lambda: None
) -> Deliver:
    """Returns the deliver parts over a world, with the default settings."""
    settings, egress = DeliverSettings(), EgressSettings()
    shards = world.log.partition_count(topics.DELIVERIES.name)
    stores = {
        shard: RocksStore.open(world.directory / "shards" / f"{shard:04d}", shard=shard, shard_count=shards)
        for shard in range(shards)
    }
    return Deliver(
        log=world.log,
        stores=stores,
        endpoints=world.endpoints,
        key_ring=world.key_ring,
        sender=sender,
        slots=egress.slots,
        policy=ShardPolicy(),
        stop=stop,
        clock_ms=clock_ms,
        user_agent=egress.user_agent,
        connect_timeout_ms=egress.connect_timeout_ms,
        sync_ms=settings.sync_ms,
        stop_deadline_ms=settings.stop_deadline_ms,
        outbox_bytes_max=settings.outbox_bytes_max,
        beat=beat,
    )


def run(directory: Path, count: int, endpoint_count: int = 100, *, with_http: bool = False) -> Figure:
    """Measures `count` deliveries from the log to their transitions' acknowledgement."""
    if not with_http:
        return _run(directory, count, endpoint_count, "http://127.0.0.1:9/", AnsweringSender(), "no HTTP")
    with sink() as port:
        sender = open_aiohttp_sender(EgressPolicy(allow_private=True))
        return _run(directory, count, endpoint_count, f"http://127.0.0.1:{port}/", sender, "aiohttp")


def _run(directory: Path, count: int, endpoint_count: int, url: str, sender: Sender, case: str) -> Figure:
    meter = Meter()
    with bench_world(directory, url, endpoint_count) as world:
        _fill(world, count)
        stop = StopSignal()
        seen = 0
        deliver: Deliver | None = None

        def beat() -> None:
            nonlocal seen
            if deliver is not None and not stop.is_requested:
                seen = sum(runtime.engine.state.sequence for runtime in deliver.runtimes.values())
                if seen >= count and not deliver.slots.taken:
                    stop.request()

        deliver = make_deliver(world, sender, stop, beat)
        flow = deliver.build()
        with meter.running():
            run_flow(flow, epoch_interval_s=1.0)
            deliver.finish(10.0)
        sender.close(5.0)
    return meter.figure("deliver", f"{case}, {endpoint_count:,} endpoints", count)


def _fill(world: BenchWorld, count: int) -> None:
    shards = world.log.partition_count(topics.DELIVERIES.name)
    entries: dict[int, list[Entry]] = defaultdict(list)
    values = load.delivery_values(count, world.endpoint_ids, clock_ms(), load.body_of())
    for number, value in enumerate(values):
        shard = partition_of(world.endpoint_ids[number % len(world.endpoint_ids)], shards)
        entries[shard].append(Entry(b"", value))
    for shard, of_shard in entries.items():
        world.append(topics.DELIVERIES.name, shard, of_shard)
