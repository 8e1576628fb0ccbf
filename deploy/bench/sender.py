"""The sender alone: signed requests to a sink in another process, a fixed number in flight."""

import time
from pathlib import Path

from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from deploy.bench import load
from deploy.bench.figure import Figure, Meter
from deploy.bench.sink_process import sink
from operators.request_head import make_head, prepare


def run(_: Path, count: int, in_flight: int = 64) -> Figure:
    """Measures `count` requests, signing included."""
    with sink() as port:
        now_ms = time.time_ns() // 1_000_000
        head = make_head(load.endpoint(0, f"http://127.0.0.1:{port}/hook", now_ms), "Hooktide-bench", 5_000)
        body = load.body_of()
        sender = open_aiohttp_sender(EgressPolicy(allow_private=True))
        meter = Meter()
        submitted = collected = 0
        with meter.running():
            while collected < count:
                room = min(in_flight - (submitted - collected), count - submitted)
                if room:
                    numbers = range(submitted, submitted + room)
                    sender.submit(
                        [prepare(head, (0, n), f"evt_{n}", body, [b"s" * 32], now_ms) for n in numbers]
                    )
                    submitted += room
                outcomes = sender.collect()
                assert all(outcome.status == 200 for outcome in outcomes), outcomes[0]
                collected += len(outcomes)
                if not outcomes:
                    time.sleep(0.000_5)
        sender.close(5.0)
    return meter.figure("sender", f"aiohttp, {in_flight} in flight", count)
