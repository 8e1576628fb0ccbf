"""The parts that the flow stages share: a local log on disk, endpoints in it, views, a key ring."""

import base64
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataflows.connectors.key_ring import KeyRing
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Appended, Entry, Log, TopicPartition
from dataflows.connectors.table_view import TableView
from deploy.bench import load
from schemas import topics
from schemas.endpoint import Endpoint
from schemas.errors import HooktideError
from schemas.settings import LogSettings
from schemas.topics import Spread
from schemas.wire.records import ENDPOINT

APPEND_BLOCK = 500
_COUNTS = {
    Spread.ONE: 1,
    Spread.TENANTS: LogSettings().events_partitions,
    Spread.SHARDS: LogSettings().shards,
}


def clock_ms() -> int:
    """Milliseconds UTC."""
    return time.time_ns() // 1_000_000


@dataclass
class BenchWorld:
    """What a flow stage runs on."""

    directory: Path
    log: Log
    endpoints: TableView[Endpoint]
    key_ring: KeyRing
    endpoint_ids: list[str]

    def append(self, topic: str, partition: int, entries: Sequence[Entry]) -> None:
        """Appends in blocks and waits for the last acknowledgement."""
        of = TopicPartition(topic, partition)
        failed: list[HooktideError] = []
        for start in range(0, len(entries) - APPEND_BLOCK, APPEND_BLOCK):
            self.log.append(of, entries[start : start + APPEND_BLOCK], lambda r: _note(failed, r))
        rest = (len(entries) - 1) // APPEND_BLOCK * APPEND_BLOCK
        self.log.append_and_wait(of, entries[rest:], timeout_s=60.0)
        assert not failed, failed[0]


def _note(failed: list[HooktideError], result: Appended | HooktideError) -> None:
    if isinstance(result, HooktideError):
        failed.append(result)


@contextmanager
def bench_world(directory: Path, url: str, endpoint_count: int) -> Iterator[BenchWorld]:
    """Opens a log in `directory` and writes `endpoint_count` endpoints to it."""
    partitions = {topic.name: _COUNTS[topic.spread] for topic in topics.ALL_TOPICS}
    log = LocalLog.open(
        directory / "log", partitions=partitions, clock_ms=clock_ms, linger_ms=LogSettings().linger_ms
    )
    key_ring = KeyRing.open(base64.b64encode(b"k" * 32).decode(), directory / "master.key")
    view = TableView(log, topics.ENDPOINTS.name, ENDPOINT.decode)
    world = BenchWorld(directory, log, view, key_ring, [load.endpoint_id(n) for n in range(endpoint_count)])
    entries = []
    for number in range(endpoint_count):
        endpoint = load.endpoint(number, url, clock_ms(), key_ring)
        entries.append(Entry(endpoint.id.encode(), ENDPOINT.encode(endpoint)))
    world.append(topics.ENDPOINTS.name, 0, entries)
    while not view.reached(log.end(TopicPartition(topics.ENDPOINTS.name, 0))):
        view.catch_up()
    try:
        yield world
    finally:
        view.close()
        log.close()
