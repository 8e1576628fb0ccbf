"""Victims with a planted defect, to see the harness notice: run in place of `deploy.chaos.victim`."""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dataflows.connectors.delivery_log.port import DeliveryLog
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Appended, Entry, OnAppended, TopicPartition
from dataflows.connectors.sender.aiohttp import EgressPolicy
from dataflows.connectors.sender.port import Sender
from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.rocks_options import StoreMemory
from deploy.chaos.victim import run_victim
from deploy.chaos.watched_ports import WatchedBatch, WatchedLog, WatchedSender, WatchedStore
from deploy.process.makers import Makers
from operators.shard.store_port import Batch
from schemas import topics
from schemas.outcome import Outcome, PreparedRequest

DEFECT = "CHAOS_TEST_DEFECT"
EVERY = 20
LATE_S = 0.5
TWIN_SHARD = -1


class ForgetfulStore(WatchedStore):
    """Does not write every twentieth batch that says what became of a delivery."""

    _count = 0

    def write(self, batch: Batch) -> None:
        if isinstance(batch, WatchedBatch) and batch.is_stamped and not batch.is_barrier:
            self._count += 1
            if self._count % EVERY == 0:
                return
        super().write(batch)


class HastyLog(WatchedLog):
    """Acknowledges events before they are written, let alone synced."""

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        if to.topic != topics.EVENTS.name:
            super().append(to, entries, on_appended)
            return
        on_appended(Appended(self.end(to), time.time_ns() // 1_000_000))
        append = super().append
        threading.Timer(LATE_S, lambda: append(to, entries, lambda _: None)).start()


class TwinSender(WatchedSender):
    """Sends every twentieth request again, when its outcome has long been written."""

    def __init__(self, inner: Sender) -> None:
        self._inner = inner
        self._sent = 0

    def submit(self, requests: Sequence[PreparedRequest]) -> None:
        self._inner.submit(requests)
        for request in requests:
            self._sent += 1
            if self._sent % EVERY == 0:
                twin = replace(request, token=(TWIN_SHARD, request.token[1]))
                threading.Timer(LATE_S, self._inner.submit, ([twin],)).start()

    def collect(self, outcomes_max: int = 1_000) -> list[Outcome]:
        return [one for one in self._inner.collect(outcomes_max) if one.token[0] != TWIN_SHARD]


class LossyDeliveryLog:
    """Drops a row of every block of attempts."""

    def __init__(self, inner: DeliveryLog) -> None:
        self._inner = inner
        self.migrate = inner.migrate
        self.query = inner.query
        self.close = inner.close

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._inner.insert(table, columns, rows[1:] if table == "attempts" and len(rows) > 1 else rows)


def forgets_outcomes(makers: Makers) -> Makers:
    def open_store(
        directory: Path, *, shard: int, shard_count: int, memory: StoreMemory | None
    ) -> RocksStore:
        return ForgetfulStore.open(directory, shard=shard, shard_count=shard_count, memory=memory)

    return makers._replace(open_store=open_store)


def acknowledges_early(makers: Makers) -> Makers:
    def open_log(
        directory: Path, *, partitions: Mapping[str, int], clock_ms: Callable[[], int], linger_ms: float
    ) -> LocalLog:
        return HastyLog.open(directory, partitions=partitions, clock_ms=clock_ms, linger_ms=linger_ms)

    return makers._replace(open_log=open_log)


def sends_twice(makers: Makers) -> Makers:
    def open_sender(policy: EgressPolicy) -> Sender:
        return TwinSender(makers.open_sender(policy))

    return makers._replace(open_sender=open_sender)


def loses_rows(makers: Makers) -> Makers:
    return makers._replace(open_delivery_log=lambda path: LossyDeliveryLog(makers.open_delivery_log(path)))


DEFECTS: dict[str, Callable[[Makers], Makers]] = {
    "none": lambda makers: makers,
    "forgets_outcomes": forgets_outcomes,
    "acknowledges_early": acknowledges_early,
    "sends_twice": sends_twice,
    "loses_rows": loses_rows,
}

if __name__ == "__main__":
    code = run_victim(sys.argv[1:], DEFECTS[os.environ[DEFECT]])
    sys.stdout.flush()
    os._exit(code)
