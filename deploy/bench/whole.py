"""The whole pipeline in one process: events in the log, `route`, `deliver` with real HTTP, `record` into chdb.

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

LOOK_S = 0.02
TIMEOUT_S = 600.0


def run(directory: Path, count: int, endpoint_count: int = 100) -> Figure:
    """Measures `count` deliveries; every event goes to each of `endpoint_count` endpoints."""
    tune_allocator()
    meter = Meter()
    with sink() as port, bench_world(directory, f"http://127.0.0.1:{port}/", endpoint_count) as world:
        fill_events(world, count // endpoint_count)
        freeze_heap()
        with meter.running():
            sent = _run(world, count // endpoint_count * endpoint_count)
    return meter.figure("whole", f"aiohttp, {endpoint_count:,} endpoints", sent)


def _run(world: BenchWorld, count: int) -> int:
    settings = RecordSettings()
    deaths: list[BaseException] = []
    stop, stop_record = StopSignal(), StopSignal()
    sender = open_aiohttp_sender(EgressPolicy(allow_private=True))
    delivery_log = ChdbLog(world.directory / "delivery_log")
    delivery_log.migrate()
    route = Route(world.log, world.endpoints, stop)
    deliver = make_deliver(world, sender, stop)
    record = Record(
        world.log, delivery_log, stop_record, rows_max=settings.rows_max, interval_ms=settings.interval_ms
    )
    threads = [
        FlowThread(name, flow.build, epoch_interval_s=1.0, on_death=lambda _, error: deaths.append(error))
        for name, flow in (("route", route), ("deliver", deliver), ("record", record))
    ]
    for thread in threads:
        thread.start()
    until_s = time.monotonic() + TIMEOUT_S
    while sum(runtime.engine.state.sequence for runtime in deliver.runtimes.values()) < count:
        if deaths:
            raise deaths[0]
        assert time.monotonic() < until_s, "the pipeline did not get through in time"
        time.sleep(LOOK_S)
    stop.request()
    threads[0].join(60)
    threads[1].join(60)
    deliver.finish(10.0)
    while not record.is_caught_up():
        time.sleep(LOOK_S)
    stop_record.request()
    threads[2].join(60)
    sender.close(5.0)
    delivery_log.close()
    return count
