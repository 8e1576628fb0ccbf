"""The REST API: keyless publishes over loopback, by a client in a process of its own."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry

from api.app import build_app
from api.deps import ApiDeps
from api.server import start_server
from dataflows.connectors.delivery_log.chdb import ChdbLog
from dataflows.connectors.idempotency_store import IdempotencyStore
from deploy.bench.figure import Figure, Meter
from deploy.bench.sink_process import ROOT, leave_our_core
from deploy.bench.world import BenchWorld, bench_world, clock_ms
from schemas.settings import Settings

ADMIN_KEY = "bench"
WARM_UP = 200


def run(directory: Path, count: int) -> Figure:
    """Measures `count` publishes of 1 KB, 32 at a time, to the acknowledgement of the log."""
    meter = Meter()
    with bench_world(directory, "https://example.com/", 1) as world:
        uvloop.run(_serve(world, count, meter))
    return meter.figure("api", "one publish of 1 KB, 32 at a time", count)


async def _serve(world: BenchWorld, count: int, meter: Meter) -> None:
    delivery_log = ChdbLog(world.directory / "delivery_log")
    delivery_log.migrate()
    store = IdempotencyStore(world.directory / "idempotency")
    deps = ApiDeps(
        log=world.log,
        endpoints=world.endpoints,
        delivery_log=delivery_log,
        key_ring=world.key_ring,
        idempotency=store,
        admin_key=ADMIN_KEY,
        settings=Settings(),
        clock_ms=clock_ms,
        entropy=os.urandom,
        readiness=list,
        registry=CollectorRegistry(),
    )
    server, port = await start_server(build_app(deps), "127.0.0.1", 0)
    await _publish(port, WARM_UP)
    with meter.running():
        await _publish(port, count)
    await server.cleanup()
    store.close()
    delivery_log.close()


async def _publish(port: int, count: int) -> None:
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "deploy.bench.publisher",
        str(port),
        str(count),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    leave_our_core(client.pid)
    assert await client.wait() == 0, "the publishing client failed"
