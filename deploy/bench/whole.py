"""The whole pipeline in one process: `route`, `deliver` with real HTTP, `record` into chdb.

The receiver is a cheap sink in a process of its own. The figure is the CPU of this process, from the first
event to
the last row: divided by deliveries, its inverse is what one core can do.
"""

import time
from pathlib import Path

from dataflows.connectors.delivery_log.chdb import ChdbLog
from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from dataflows.engine.flow_runner import FlowThread
from dataflows.engine.stop import StopSignal
from dataflows.flows.record import Record
from dataflows.flows.route import Route
from deploy.bench.deliver import make_deliver
from deploy.bench.figure import Figure, Meter
from deploy.bench.load_events import fill_events
from deploy.bench.sink_process import sink
from deploy.bench.world import BenchWorld, bench_world
from deploy.process.tune import freeze_heap, tune_allocator
from schemas.settings import RecordSettings

LOOK_S = 0.01
ON_THE_WAY = 1_000
WARM_UP = 2_000
TIMEOUT_S = 600.0


def run(directory: Path, count: int, endpoint_count: int = 100) -> Figure:
    """Measures `count` deliveries; every event goes to each of `endpoint_count` endpoints."""
    tune_allocator()
    meter = Meter()
    with sink() as port, bench_world(directory, f"http://127.0.0.1:{port}/", endpoint_count) as world:
        pipeline = Pipeline(world)
        pipeline.deliver_all(WARM_UP // endpoint_count, endpoint_count)
        freeze_heap()
        with meter.running():
            began_s = time.perf_counter()
            sent = pipeline.deliver_all(count // endpoint_count, endpoint_count)
            delivering_s = time.perf_counter() - began_s
            pipeline.close()
        meter.wall_s = delivering_s  # the rate is that of delivering; the CPU is counted to the last row
    return meter.figure("whole", f"aiohttp, {endpoint_count:,} endpoints, {ON_THE_WAY:,} on the way", sent)


class Pipeline:
    """The three flows over a world, each in its thread."""

    def __init__(self, world: BenchWorld) -> None:
        settings = RecordSettings()
        self._world = world
        self._deaths: list[BaseException] = []
        self._stop, self._stop_record = StopSignal(), StopSignal()
        self._sender = open_aiohttp_sender(EgressPolicy(allow_private=True))
        self._delivery_log = ChdbLog(world.directory / "delivery_log")
        self._delivery_log.migrate()
        self._deliver = make_deliver(world, self._sender, self._stop)
        self._record = Record(
            world.log,
            self._delivery_log,
            self._stop_record,
            rows_max=settings.rows_max,
            interval_ms=settings.interval_ms,
        )
        flows = (
            ("route", Route(world.log, world.endpoints, self._stop)),
            ("deliver", self._deliver),
            ("record", self._record),
        )
        self._threads = [
            FlowThread(
                name, flow.build, epoch_interval_s=1.0, on_death=lambda _, error: self._deaths.append(error)
            )
            for name, flow in flows
        ]
        self._fed = 0
        for thread in self._threads:
            thread.start()

    def deliver_all(self, event_count: int, endpoint_count: int) -> int:
        """Feeds events, each for every endpoint, and waits for their end; returns the deliveries."""
        until_s = time.monotonic() + TIMEOUT_S
        goal = (self._fed + event_count) * endpoint_count
        while (done := self._done()) < goal:
            if self._deaths:
                raise self._deaths[0]
            assert time.monotonic() < until_s, "the pipeline did not get through in time"
            room = (ON_THE_WAY + done) // endpoint_count - self._fed
            block = min(room, goal // endpoint_count - self._fed)
            if block > 0:
                fill_events(self._world, block, self._fed)
                self._fed += block
            time.sleep(LOOK_S)
        return event_count * endpoint_count

    def close(self) -> None:
        """Stops in the order of the data; the last row is in when it returns."""
        self._stop.request()
        self._threads[0].join(60)
        self._threads[1].join(60)
        self._deliver.finish(10.0)
        while not self._record.is_caught_up():
            time.sleep(LOOK_S)
        self._stop_record.request()
        self._threads[2].join(60)
        self._sender.close(5.0)
        self._delivery_log.close()

    def _done(self) -> int:
        return sum(runtime.engine.state.sequence for runtime in self._deliver.runtimes.values())
