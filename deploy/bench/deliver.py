"""The whole `deliver` dataflow over a local log, with a sender that answers 200 at once, or the real one."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from dataflows.connectors.data_directory import shard_directory
from dataflows.connectors.log.port import Entry, TopicPartition
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

ON_THE_WAY = 1_000
FEED_MIN = 100


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

    @property
    def is_alive(self) -> bool:
        """Always."""
        return True

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
        shard: RocksStore.open(shard_directory(world.directory, shard), shard=shard, shard_count=shards)
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
        wall_ms=clock_ms,
        user_agent=egress.user_agent,
        connect_timeout_ms=egress.connect_timeout_ms,
        sync_ms=settings.sync_ms,
        stop_deadline_ms=settings.stop_deadline_ms,
        outbox_bytes_max=settings.outbox_bytes_max,
        beat=beat,
    )


def run(directory: Path, count: int, endpoint_count: int = 100, with_http: int = 0) -> Figure:
    """Measures `count` deliveries from the log to their transitions' acknowledgement.

    Deliveries are fed as others end, so that `ON_THE_WAY` of them are on the way: nothing has to spill.

    Args:
        directory: empty.
        count: deliveries.
        endpoint_count: endpoints, in turn.
        with_http: 1 for real requests to a sink; 0 for a sender that answers at once.
    """
    if not with_http:
        return _run(directory, count, endpoint_count, "http://127.0.0.1:9/", AnsweringSender())
    with sink() as port:
        sender = open_aiohttp_sender(EgressPolicy(allow_private=True))
        return _run(directory, count, endpoint_count, f"http://127.0.0.1:{port}/", sender)


def _run(directory: Path, count: int, endpoint_count: int, url: str, sender: Sender) -> Figure:
    meter = Meter()
    case = "no HTTP" if isinstance(sender, AnsweringSender) else "aiohttp"
    with bench_world(directory, url, endpoint_count) as world:
        feeder = Feeder(world, count)
        stop = StopSignal()
        deliver: Deliver | None = None

        def beat() -> None:
            if deliver is not None and not stop.is_requested:
                done = sum(runtime.engine.state.sequence for runtime in deliver.runtimes.values())
                feeder.feed(done)
                if done >= count and not deliver.slots.taken:
                    stop.request()

        deliver = make_deliver(world, sender, stop, beat)
        flow = deliver.build()
        with meter.running():
            run_flow(flow, epoch_interval_s=1.0)
            deliver.finish(10.0)
        sender.close(5.0)
    return meter.figure("deliver", f"{case}, {endpoint_count:,} endpoints, {ON_THE_WAY:,} on the way", count)


class Feeder:
    """Appends prepared deliveries to the log as others end."""

    def __init__(self, world: BenchWorld, count: int) -> None:
        shards = world.log.partition_count(topics.DELIVERIES.name)
        ids = world.endpoint_ids
        partitions = [TopicPartition(topics.DELIVERIES.name, partition_of(name, shards)) for name in ids]
        self._log = world.log
        self._fed = 0
        self._entries = [
            (partitions[number % len(ids)], Entry(b"", value))
            for number, value in enumerate(load.delivery_values(count, ids, clock_ms(), load.body_of()))
        ]

    def feed(self, done: int) -> None:
        """Appends up to what may be on the way."""
        until = min(done + ON_THE_WAY, len(self._entries))
        if until - self._fed < FEED_MIN and until < len(self._entries):
            return
        blocks: dict[TopicPartition, list[Entry]] = defaultdict(list)
        for of, entry in self._entries[self._fed : until]:
            blocks[of].append(entry)
        self._fed = until
        for of, block in blocks.items():
            self._log.append(of, block, _ignore)


def _ignore(_: object) -> None:
    """The deliveries that come back are acknowledgement enough."""
