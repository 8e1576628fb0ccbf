"""Ports of the real kind that pass by a trap: what makes a victim of the process that `up` runs.

Stores and log are subclasses, so that they stay what the rest takes them for; the sender is a port, and is
wrapped. What a batch is about is read from the `meta` rows it sets: `position` is a barrier's, `stamp` stands
in every batch that says what became of a delivery.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.local_database import Database
from dataflows.connectors.log.port import Appended, Entry, OnAppended, TopicPartition
from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from dataflows.connectors.sender.port import Sender
from dataflows.connectors.shard_store.rocks import RocksBatch, RocksStore
from dataflows.connectors.shard_store.rocks_options import StoreMemory
from deploy.chaos.points import Point
from deploy.chaos.shared_page import HeldPage
from deploy.chaos.trap import Trap
from deploy.process.makers import Makers
from operators.shard.store_port import Batch, Family
from schemas import topics
from schemas.errors import HooktideError
from schemas.outcome import Outcome, PreparedRequest
from schemas.wire.store_keys import META_POSITION, META_STAMP


def watched(trap: Trap, page: HeldPage) -> Makers:
    """Returns the makers of a process that ends at the trap's point, and shows on the page what it holds."""

    def open_log(
        directory: Path, *, partitions: Mapping[str, int], clock_ms: Callable[[], int], linger_ms: float
    ) -> LocalLog:
        log = WatchedLog.open(
            directory,
            partitions=partitions,
            clock_ms=clock_ms,
            linger_ms=linger_ms,
            open_database=lambda path: WatchedDatabase(path, trap),
        )
        log.trap = trap
        return log

    def open_store(
        directory: Path, *, shard: int, shard_count: int, memory: StoreMemory | None
    ) -> RocksStore:
        store = WatchedStore.open(directory, shard=shard, shard_count=shard_count, memory=memory)
        store.trap = trap
        return store

    def open_sender(policy: EgressPolicy) -> Sender:
        return WatchedSender(open_aiohttp_sender(policy), trap, page)

    return Makers(open_log=open_log, open_store=open_store, open_sender=open_sender)


class WatchedSender:
    """A `Sender` that passes by when it hands over outcomes, and shows how many slots are held.

    A slot is held until its outcome is written, which is after `collect`: what the last two calls returned
    counts as held, since the flow may ask again before it has written what it was given.
    """

    def __init__(self, inner: Sender, trap: Trap, page: HeldPage) -> None:
        self._inner = inner
        self._trap = trap
        self._page = page
        self._last, self._before = 0, 0
        trap.in_flight = lambda: inner.in_flight_count

    def submit(self, requests: Sequence[PreparedRequest]) -> None:
        """As the port says."""
        self._show(len(requests))
        self._inner.submit(requests)

    def collect(self, outcomes_max: int = 1_000) -> list[Outcome]:
        """As the port says; the outcomes are here, and nobody else knows."""
        outcomes = self._inner.collect(outcomes_max)
        if outcomes:
            self._before, self._last = self._last, len(outcomes)
            self._show(0)
            self._trap.pass_by(Point.AFTER_SEND)
        elif self._last:
            self._before, self._last = self._last, 0
            self._show(0)
        return outcomes

    @property
    def in_flight_count(self) -> int:
        """As the port says."""
        return self._inner.in_flight_count

    @property
    def is_alive(self) -> bool:
        """As the port says."""
        return self._inner.is_alive

    def close(self, deadline_s: float) -> None:
        """As the port says."""
        self._inner.close(deadline_s)

    def _show(self, more: int) -> None:
        self._page.write(self._inner.in_flight_count + self._last + self._before + more)


class WatchedBatch(RocksBatch):
    """A batch that knows what it is about."""

    __slots__ = ("is_barrier", "is_stamped")

    def __init__(self, *parts: Any) -> None:  # noqa: ANN401 - whatever the store gives its batches
        super().__init__(*parts)
        self.is_barrier = self.is_stamped = False

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        """Sets a row."""
        if family is Family.META:
            self.is_barrier |= key == META_POSITION
            self.is_stamped |= key == META_STAMP
        super().put(family, key, value)


class WatchedStore(RocksStore):
    """A shard store that passes by before and after it writes."""

    trap: Trap | None = None

    def batch(self) -> RocksBatch:
        """Returns an empty batch."""
        return WatchedBatch(self._handles, self._seen_handles, self._drops)

    def write(self, batch: Batch) -> None:
        """As the port says."""
        trap = self.trap
        if trap is None or not isinstance(batch, WatchedBatch):
            super().write(batch)
            return
        if batch.is_barrier:
            trap.pass_by(Point.BARRIER_BEFORE_WRITE)
        elif batch.is_stamped:
            trap.pass_by(Point.BEFORE_WRITE)
        super().write(batch)
        if batch.is_barrier:
            trap.pass_by(Point.BARRIER_AFTER_WRITE)


class WatchedDatabase(Database):
    """The log's database, which can end between the write and the sync of a group."""

    def __init__(self, path: Path, trap: Trap) -> None:
        super().__init__(path)
        self._trap = trap

    def write(self, batch: Any) -> None:  # noqa: ANN401 - of the storage library, which only connectors know
        """Applies the batch and waits for the fsync."""
        if self._trap.is_next(Point.APPEND_BEFORE_SYNC):
            self.records.write(batch)
            self._trap.spring()
        super().write(batch)
        self._trap.pass_by(Point.APPEND_AFTER_SYNC)


class WatchedLog(LocalLog):
    """The log, on both sides of the publication of an outbox row."""

    trap: Trap | None = None

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        """As the port says."""
        trap = self.trap
        if trap is None or to.topic != topics.TRANSITIONS.name:
            super().append(to, entries, on_appended)
            return

        def noted(result: Appended | HooktideError) -> None:
            if isinstance(result, Appended):
                trap.pass_by(Point.BEFORE_TRIM)
            on_appended(result)

        trap.pass_by(Point.BEFORE_PUBLISH)
        super().append(to, entries, noted)
