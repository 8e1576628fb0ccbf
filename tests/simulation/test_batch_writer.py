"""The batch writer over a store that fails: written in order, committed after, and a stop never hangs."""

import threading
from collections.abc import Mapping, Sequence

import pytest

from dataflows.connectors.log.port import Record, TopicPartition
from dataflows.engine.batch_writer import BatchWriter
from dataflows.engine.block_source import Block
from schemas.dead_letter import Rejected
from schemas.errors import StoreUnavailable
from schemas.topics import DELIVERIES, REJECTED, TRANSITIONS
from tests.simulation.memory_log import MemoryLog

P0, P1 = TopicPartition(TRANSITIONS.name, 0), TopicPartition(TRANSITIONS.name, 1)
LONG_MS = 3_600_000


class FakeStore:
    """A recording that notes what it was given, and may fail, wait or die."""

    def __init__(self) -> None:
        self.batches: list[dict[TopicPartition, list[int]]] = []
        self.started_at: dict[TopicPartition, int] | None = None
        self.failures_left = 0
        self.error: BaseException | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_in_write = threading.Event()
        self.rejected: list[Rejected] = []

    def start(self, committed: Mapping[TopicPartition, int]) -> None:
        self.started_at = dict(committed)

    def write(self, blocks: Mapping[TopicPartition, Sequence[Record]]) -> list[Rejected]:
        self.is_in_write.set()
        self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        if self.failures_left > 0:
            self.failures_left -= 1
            raise StoreUnavailable("the store is away")
        self.batches.append({of: [record.offset for record in found] for of, found in blocks.items()})
        return self.rejected


def block(of: TopicPartition, first: int, count: int) -> Block:
    records = [Record(offset, 0, b"", b"") for offset in range(first, first + count)]
    return Block(of.topic, of.partition, records)


class World:
    """A writer over a fake store and a log in memory."""

    def __init__(self, rows_max: int = 100, interval_ms: int = LONG_MS) -> None:
        self.log = MemoryLog({REJECTED.name: 1, TRANSITIONS.name: 2})
        self.store = FakeStore()
        self.writer = BatchWriter(
            self.log, "record", self.store, {P0: 0, P1: 0}, rows_max=rows_max, interval_ms=interval_ms
        )
        self.writer.start()

    def committed(self, of: TopicPartition) -> int | None:
        found = self.log.committed("record", of)
        return None if found is None else found.offset

    def ended(self) -> bool:
        self.writer._thread.join(10)
        return self.writer.is_done


def test_blocks_are_gathered_until_there_are_rows_enough() -> None:
    world = World(rows_max=100)
    world.writer.put(block(P0, 0, 60))
    world.writer.put(block(P1, 0, 30))
    assert world.store.batches == []
    world.writer.put(block(P0, 60, 10))
    world.log.wait_until(lambda: world.committed(P0) == 70)
    assert world.store.batches == [{P0: list(range(70)), P1: list(range(30))}]
    assert world.committed(P1) == 30
    assert world.store.started_at == {P0: 0, P1: 0}
    world.writer.abort()


def test_the_oldest_block_waits_no_longer_than_the_interval() -> None:
    world = World(interval_ms=10)
    world.writer.put(block(P0, 0, 1))
    world.log.wait_until(lambda: world.committed(P0) == 1)
    world.writer.abort()


def test_a_batch_is_tried_until_it_is_written_and_those_behind_it_wait() -> None:
    world = World(rows_max=10)
    world.store.failures_left = 3
    world.writer.put(block(P0, 0, 10))
    world.writer.put(block(P0, 10, 10))
    world.log.wait_until(lambda: world.committed(P0) == 20)
    assert world.store.batches == [{P0: list(range(10))}, {P0: list(range(10, 20))}]
    assert (world.writer.counts.failures, world.writer.counts.rows, world.writer.counts.batches) == (3, 20, 2)
    world.writer.abort()


def test_nothing_is_committed_before_it_is_written() -> None:
    world = World(rows_max=1)
    world.store.may_go_on.clear()
    world.writer.put(block(P0, 0, 5))
    assert world.store.is_in_write.wait(10)
    assert world.committed(P0) is None
    world.store.may_go_on.set()
    world.log.wait_until(lambda: world.committed(P0) == 5)
    world.writer.abort()


def test_room_ends_while_the_store_is_slow() -> None:
    world = World(rows_max=10)
    world.store.may_go_on.clear()
    first = 0
    while world.writer.has_room:
        world.writer.put(block(P0, first, 5))
        first += 5
        assert first <= 100
    world.store.may_go_on.set()
    world.log.wait_until(lambda: world.writer.has_room)
    world.writer.finish()
    assert world.ended()
    assert world.committed(P0) == first


def test_finish_writes_what_is_gathered_and_ends() -> None:
    world = World()
    world.writer.put(block(P0, 0, 3))
    world.writer.finish()
    assert world.ended()
    assert world.committed(P0) == 3
    assert dict(world.writer.written) == {P0: 3, P1: 0}


def test_abort_ends_a_writer_whose_store_is_away_and_commits_nothing() -> None:
    world = World(rows_max=1)
    world.store.failures_left = 10**9
    world.writer.put(block(P0, 0, 1))
    assert world.store.is_in_write.wait(10)
    world.writer.abort()
    assert world.ended()
    assert world.committed(P0) is None
    world.writer.check()


def test_a_death_of_the_thread_surfaces() -> None:
    world = World(rows_max=1)
    world.store.error = ZeroDivisionError()
    world.writer.put(block(P0, 0, 1))
    assert world.ended()
    with pytest.raises(ZeroDivisionError):
        world.writer.check()


def test_unreadable_records_are_rejected_before_the_commit_unless_another_flow_reads_them_too() -> None:
    world = World(rows_max=1)
    own = Rejected(TRANSITIONS.name, 0, 0, "unreadable", "", None, b"", 0)
    others = Rejected(DELIVERIES.name, 0, 0, "unreadable", "", None, b"", 0)
    world.store.rejected = [own, others]
    world.writer.put(block(P0, 0, 1))
    world.log.wait_until(lambda: world.committed(P0) == 1)
    keys = [record.key for record in world.log.records(TopicPartition(REJECTED.name, 0))]
    assert keys == [b"transitions/0/0"]
    world.writer.abort()
