"""Flows in threads: several at once, deaths with their reason, and what the engine relies on Bytewax for."""

from collections.abc import Callable, Sequence
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from dataflows.connectors.log.port import Entry, OffsetOutOfRange, Record, TopicPartition
from dataflows.engine.block_source import FIRST_RECORDS, Block, LogBlockSource, SourceHooks, shard_key
from dataflows.engine.flow_runner import FlowThread, root_of, run_flow
from dataflows.engine.stop import StopSignal
from tests.simulation.memory_log import MemoryLog

TOPIC = "events"


class Collector(DynamicSink[Any]):
    """Hands every item to a function."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        self.take = take

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "Collecting":
        del step_id, worker_index, worker_count
        return Collecting(self.take)


class Collecting(StatelessSinkPartition[Any]):
    def __init__(self, take: Callable[[Any], None]) -> None:
        self.take = take

    def write_batch(self, items: list[Any]) -> None:
        for item in items:
            self.take(item)


class World:
    """A log in memory, and a flow from its blocks to a list."""

    def __init__(self, partitions: int = 2) -> None:
        self.log = MemoryLog({TOPIC: partitions})
        self.of = [TopicPartition(TOPIC, number) for number in range(partitions)]
        self.stop = StopSignal()
        self.items: list[Any] = []
        self.take: Callable[[Any], None] = self.items.append
        self.polls = 0

    def put(self, partition: int, count: int, size: int = 1) -> None:
        self.log.append_and_wait(self.of[partition], [Entry(None, b"x" * size)] * count)

    def source(self, hooks: SourceHooks = SourceHooks(), **settings: Any) -> LogBlockSource:  # noqa: B008, ANN401
        positions = settings.pop("positions", dict.fromkeys(self.of, 0))
        return LogBlockSource(self.log.reader, positions, self.stop, hooks, **settings)

    def flow(self, source: LogBlockSource, name: str = "test") -> Dataflow:
        flow = Dataflow(name)
        op.output("out", op.input("in", flow, source), Collector(self.take))
        return flow

    def run(self, source: LogBlockSource, until: Callable[[], bool]) -> None:
        """Runs the flow until the fact holds, then stops it."""
        thread = FlowThread("test", lambda: self.flow(source), epoch_interval_s=0.1, on_death=lambda *_: None)
        thread.start()
        self.log.wait_until(lambda: until() or not thread.is_alive)
        self.stop.request()
        assert thread.join(10)
        if thread.error is not None:
            raise thread.error

    def blocks(self) -> list[Block]:
        return [item for _, item in self.items if isinstance(item, Block)]

    def offsets(self, partition: int) -> list[int]:
        return [
            record.offset
            for block in self.blocks()
            if block.partition == partition
            for record in block.records
        ]


def test_every_record_comes_once_in_order_under_its_partitions_key() -> None:
    world = World()
    world.put(0, 1_200)
    world.put(1, 3)
    world.run(world.source(), lambda: len(world.offsets(0)) == 1_200)
    assert world.offsets(0) == list(range(1_200))
    assert world.offsets(1) == [0, 1, 2]
    assert {(key, block.partition) for key, block in world.items} == {("0000", 0), ("0001", 1)}
    assert shard_key(TopicPartition(TOPIC, 17)) == "0017"
    assert max(len(block.records) for block in world.blocks()) == 500
    assert world.blocks()[0].next_offset == FIRST_RECORDS


def test_boot_items_come_first_and_once() -> None:
    world = World()
    world.put(0, 5)
    world.run(world.source(boot=[("0000", "boot"), ("0001", "boot")]), lambda: len(world.offsets(0)) == 5)
    assert world.items[:2] == [("0000", "boot"), ("0001", "boot")]
    assert [item for _, item in world.items].count("boot") == 2


def test_blocks_shrink_when_records_are_large() -> None:
    world = World(1)
    world.put(0, 200, size=1_000)
    world.run(world.source(bytes_max=10_000), lambda: len(world.offsets(0)) == 200)
    sizes = [len(block.records) for block in world.blocks()]
    assert sizes[0] == FIRST_RECORDS
    assert set(sizes[1:-1]) == {10}


def test_a_partition_without_credit_is_not_read_and_the_others_are() -> None:
    world = World()
    world.put(0, 5)
    world.put(1, 5)
    polls = 0

    def on_poll() -> None:
        nonlocal polls
        polls += 1

    hooks = SourceHooks(has_credit=lambda of: of.partition == 1 or polls > 20, on_poll=on_poll)
    world.run(world.source(hooks), lambda: len(world.offsets(0)) == 5)
    assert [block.partition for block in world.blocks()] == [1, 0]


def test_the_sink_has_everything_before_the_source_is_polled_again() -> None:
    # What `may_end` and the bounds on memory rely on.
    world = World(3)
    for partition in range(3):
        world.put(partition, 700)
    written = 0

    def take(item: tuple[str, Block]) -> None:
        nonlocal written
        written += len(item[1].records)

    world.take = take
    reads: list[int] = []
    behind: set[int] = set()
    source = world.source(SourceHooks(on_poll=lambda: behind.add(sum(reads) - written)))
    open_reader = source.open_reader

    class CountingReader:
        def __init__(self) -> None:
            self.inner = open_reader(source.positions)

        def poll(self, of: TopicPartition, records_max: int) -> Sequence[Record]:
            found = self.inner.poll(of, records_max)
            reads.append(len(found))
            return found

        def position(self, of: TopicPartition) -> int:
            return self.inner.position(of)

        def close(self) -> None:
            self.inner.close()

    source.open_reader = lambda _: CountingReader()
    world.run(source, lambda: written == 2_100)
    assert behind == {0}


def test_after_a_stop_the_source_is_polled_until_the_flow_may_end() -> None:
    world = World()
    world.put(0, 5)
    polls_after_stop = 0
    ends: list[str] = []

    def may_end() -> bool:
        nonlocal polls_after_stop
        polls_after_stop += 1
        if polls_after_stop == 1:
            world.put(0, 5)
        return polls_after_stop == 10

    hooks = SourceHooks(may_end=may_end, on_end=lambda: ends.append("end"))
    world.run(world.source(hooks), lambda: len(world.offsets(0)) == 5)
    assert polls_after_stop == 10
    assert ends == ["end"]
    assert len(world.offsets(0)) == 5, "nothing new is read after a stop"


def test_below_the_logs_start_the_flow_says_where_to_go_on() -> None:
    world = World()
    world.put(0, 10)
    world.put(1, 4)
    world.log.forget_below(world.of[0], 7)
    errors: list[OffsetOutOfRange] = []

    def go_on(error: OffsetOutOfRange) -> int:
        errors.append(error)
        return error.start

    world.run(world.source(SourceHooks(on_out_of_range=go_on)), lambda: len(world.offsets(0)) == 3)
    assert world.offsets(0) == [7, 8, 9]
    assert world.offsets(1) == [0, 1, 2, 3]
    assert [(error.of, error.offset, error.start, error.end) for error in errors] == [(world.of[0], 0, 7, 10)]


def test_below_the_logs_start_a_flow_that_says_nothing_dies() -> None:
    world = World()
    world.put(0, 10)
    world.log.forget_below(world.of[0], 7)
    with pytest.raises(OffsetOutOfRange):
        world.run(world.source(), lambda: False)


class Door:
    """A gate that the test opens."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_ready = False

    def shut(self) -> None:
        self.events.append("shut")

    def is_open(self) -> bool:
        self.events.append("asked")
        return self.is_ready


def test_blocks_wait_behind_the_gate_while_the_source_is_polled() -> None:
    world = World()
    world.put(0, 5)
    door = Door()

    def on_poll() -> None:
        if len(door.events) > 10:
            door.is_ready = True

    world.run(world.source(SourceHooks(on_poll=on_poll, gate=door)), lambda: len(world.offsets(0)) == 5)
    assert door.events[0] == "shut"
    assert door.events.count("shut") == 1
    assert len(door.events) > 10
    assert len(world.blocks()) == 1


def test_a_stop_does_not_wait_for_the_gate() -> None:
    world = World()
    world.put(0, 5)
    door = Door()
    world.run(world.source(SourceHooks(gate=door)), lambda: len(door.events) > 3)
    assert world.items == []


class PlannedError(Exception):
    pass


@pytest.mark.parametrize("where", ["build", "poll", "sink"])
def test_a_death_is_reported_with_its_reason_wherever_it_happens(where: str) -> None:
    world = World()
    world.put(0, 5)
    deaths: list[tuple[str, BaseException]] = []

    def die(*_: object) -> None:
        raise PlannedError(where)

    def build() -> Dataflow:
        if where == "build":
            die()
        if where == "sink":
            world.take = die
        return world.flow(world.source(SourceHooks(on_poll=die) if where == "poll" else SourceHooks()))

    thread = FlowThread("name", build, epoch_interval_s=0.1, on_death=lambda *death: deaths.append(death))
    thread.start()
    assert thread.join(10)
    assert [(name, type(error), str(error)) for name, error in deaths] == [("name", PlannedError, where)]
    assert thread.error is deaths[0][1]
    if where != "build":
        assert "in dataflow 'test'" in "".join(deaths[0][1].__notes__)


def test_an_exit_called_inside_a_flow_does_not_vanish() -> None:
    world = World()

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as raised:
        run_flow(world.flow(world.source(SourceHooks(on_poll=leave))), epoch_interval_s=0.1)
    assert raised.value.code == 3
    assert root_of(raised.value) is raised.value


def test_several_flows_run_at_once_and_one_death_leaves_the_others_running() -> None:
    worlds = [World() for _ in range(3)]
    deaths: list[str] = []

    def die(_item: object) -> None:
        raise PlannedError

    worlds[1].take = die
    threads = [
        FlowThread(
            f"flow_{number}",
            lambda world=world: world.flow(world.source()),  # type: ignore[misc]
            epoch_interval_s=0.1,
            on_death=lambda name, _: deaths.append(name),
        )
        for number, world in enumerate(worlds)
    ]
    for thread in threads:
        thread.start()
    worlds[1].put(0, 1)
    assert threads[1].join(10)
    for world in (worlds[0], worlds[2]):
        world.put(0, 100)
        world.log.wait_until(lambda world=world: len(world.offsets(0)) == 100)  # type: ignore[misc]
        world.stop.request()
    assert all(thread.join(10) for thread in threads)
    assert deaths == ["flow_1"]
