"""The `route` dataflow alone: from events in a local log to acknowledged deliveries."""

from pathlib import Path

from dataflows.engine.flow_runner import run_flow
from dataflows.engine.stop import StopSignal
from dataflows.flows.route import Route
from deploy.bench.figure import Figure, Meter
from deploy.bench.load_events import fill_events
from deploy.bench.world import bench_world


def run(directory: Path, count: int, endpoint_count: int = 1) -> Figure:
    """Measures `count` deliveries; every event goes to each of `endpoint_count` endpoints."""
    meter = Meter()
    with bench_world(directory, "https://example.com/", endpoint_count) as world:
        fill_events(world, count // endpoint_count)
        stop = StopSignal()
        route: Route | None = None

        def beat() -> None:
            if route is not None and route.counts.deliveries >= count // endpoint_count * endpoint_count:
                stop.request()

        route = Route(world.log, world.endpoints, stop, beat=beat)
        flow = route.build()
        with meter.running():
            run_flow(flow, epoch_interval_s=1.0)
    return meter.figure("route", f"{endpoint_count:,} endpoints per event", route.counts.deliveries)
