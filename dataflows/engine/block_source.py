"""The source of log records: blocks of one partition, read without ever blocking the worker.

One item of a flow is a `Block` (up to `records_max` records of one partition), because Bytewax costs
microseconds an item, whatever the item is. All partitions are polled in one source, in turn, at most
`bytes_max` a turn: on a single worker every step drains what the source emitted before it is polled again,
so that bound is also the bound on memory in the flow.

What Bytewax does not have is built in here:

- backpressure (it has it at epochs only): a partition is read only while `has_credit` says so;
- a graceful stop: the source ends when the stop signal is up and the flow says that it may (`may_end`);
- a place where time passes: `on_poll` runs at every poll, even while nothing comes;
- a gate: blocks that were received stay here, and the source keeps being polled, until the gate opens.

Pauses are slept inside the poll and `next_awake` never names a time to come: Bytewax compares it with the
wall clock, and after a step back of an hour it would not poll for an hour.

Rejected: the stock `KafkaSource` (blocks 1 ms a partition, jumps silently to the end below the log's start);
a `FixedPartitionedSource` (its resume store is not used here; positions are group offsets or stand in the
shard's store).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from bytewax.inputs import DynamicSource, StatelessSourcePartition

from dataflows.connectors.log.port import OffsetOutOfRange, Reader, Record, TopicPartition
from dataflows.engine.stop import StopSignal
from operators.suspicion import run_length

PAUSE_MS_MAX = 50
RECORDS_MAX = 500
BYTES_MAX = 4 << 20
FIRST_RECORDS = 16
"""Records of a partition's first block, before their size is known."""


LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
"""Polls again at once; `None` after an empty poll would mean in a millisecond."""


class Block(NamedTuple):
    """Consecutive records of one partition; never empty."""

    topic: str
    partition: int
    records: Sequence[Record]

    @property
    def of(self) -> TopicPartition:
        """The partition it was read from."""
        return TopicPartition(self.topic, self.partition)

    @property
    def next_offset(self) -> int:
        """The offset after its last record: where a group stands that has handled the block."""
        return self.records[-1].offset + 1


class Gate(Protocol):
    """Holds received blocks back until something else has caught up with them."""

    def shut(self) -> None:
        """Blocks were received: notes what must be reached before they may go on."""

    def is_open(self) -> bool:
        """Whether it has been reached; asked at every poll, must not block."""


class SourceHooks(NamedTuple):
    """What a flow has a say in. Every hook runs in the worker's thread and must not block.

    Attributes:
        has_credit: whether a partition may be read now.
        on_poll: runs at every poll: heartbeats, acknowledgements, intervals.
        may_end: asked after a stop was requested; the source ends when it says yes.
        on_end: runs once, when the source ends or the flow dies.
        on_out_of_range: returns the offset to go on at, or raises.
        gate: holds blocks back.
        group: of a record, how many of its kind may be handed over together, and nothing else with them; 0
            for one that nobody suspects. None: nobody is suspected.
    """

    has_credit: Callable[[TopicPartition], bool] = lambda _: True
    on_poll: Callable[[], None] = lambda: None
    may_end: Callable[[], bool] = lambda: True
    on_end: Callable[[], None] = lambda: None
    on_out_of_range: Callable[[OffsetOutOfRange], int] | None = None
    gate: Gate | None = None
    group: Callable[[TopicPartition, int], int] | None = None


def shard_key(of: TopicPartition) -> str:
    """Returns the key of a partition's blocks: its number, zero-padded, so that keys sort as numbers do."""
    return f"{of.partition:04d}"


class LogBlockSource(DynamicSource[tuple[str, Any]]):
    """Emits `(key, Block)` for every partition that has something, and the boot items once.

    Args:
        open_reader: makes a reader from positions, as `Log.reader` does; called when the flow starts, and
            again after an offset was out of range.
        positions: where to start in each partition.
        stop: ends the source.
        hooks: see `SourceHooks`.
        records_max: per block.
        bytes_max: values of all blocks of one poll. Aimed at by the size of the records before, so a sudden
            change of size may exceed it, once.
        boot: `(key, item)` emitted at the first poll: a keyed step exists only after its first item.
        pause_ms: slept after a poll that brought nothing, because every turn of Bytewax costs about 70 us; 0
            for a flow with another source that sleeps.
    """

    def __init__(
        self,
        open_reader: Callable[[Mapping[TopicPartition, int]], Reader],
        positions: Mapping[TopicPartition, int],
        stop: StopSignal,
        hooks: SourceHooks = SourceHooks(),  # noqa: B008 - immutable
        *,
        records_max: int = RECORDS_MAX,
        bytes_max: int = BYTES_MAX,
        boot: Sequence[tuple[str, Any]] = (),
        pause_ms: int = 3,
    ) -> None:
        assert 0 <= pause_ms <= PAUSE_MS_MAX, f"{pause_ms} ms: a source that pauses longer starves the others"
        self.open_reader = open_reader
        self.positions = dict(positions)
        self.stop = stop
        self.hooks = hooks
        self.records_max = records_max
        self.bytes_max = bytes_max
        self.boot = tuple(boot)
        self.pause_s = pause_ms / 1_000

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "LogBlocks":
        """Opens the reader; called by Bytewax in the flow's thread."""
        assert (worker_index, worker_count) == (0, 1), f"{step_id} runs on one worker, not on {worker_count}"
        return LogBlocks(self)


class LogBlocks(StatelessSourcePartition[tuple[str, Any]]):
    """The running half of a `LogBlockSource`."""

    def __init__(self, source: LogBlockSource) -> None:
        self._source = source
        self._hooks = source.hooks
        self._reader: Reader | None = source.open_reader(source.positions)
        self._partitions = [(of, shard_key(of)) for of in source.positions]
        self._turn = 0
        self._records_max = dict.fromkeys(source.positions, min(FIRST_RECORDS, source.records_max))
        self._boot: tuple[tuple[str, Any], ...] = source.boot
        self._behind_gate: list[tuple[str, Any]] = []
        self._put_back: dict[TopicPartition, Sequence[Record]] = {}

    def next_batch(self) -> list[tuple[str, Any]]:
        """Returns what can be read now, perhaps nothing.

        Raises:
            StopIteration: a stop was requested and the flow may end.
        """
        self._hooks.on_poll()
        if self._source.stop.is_requested:
            # What waits behind the gate was never handled, so it is not committed either: it is read again.
            if self._hooks.may_end():
                raise StopIteration
            return self._idle()
        if self._boot:
            boot, self._boot = self._boot, ()
            return list(boot)
        gate = self._hooks.gate
        items = self._behind_gate or self._read()
        if not items:
            return self._idle()
        if gate is not None:
            if not self._behind_gate:
                gate.shut()
            if not gate.is_open():
                self._behind_gate = items
                return self._idle()
            self._behind_gate = []
        return items

    def next_awake(self) -> datetime:
        """Returns when to poll again: at once, the pause is in the poll."""
        return LONG_AGO

    def close(self) -> None:
        """Closes the reader; Bytewax calls it at the end and at a death."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            self._hooks.on_end()
            reader.close()

    def _idle(self) -> list[tuple[str, Any]]:
        if self._source.pause_s:
            time.sleep(self._source.pause_s)
        return []

    def _read(self) -> list[tuple[str, Any]]:
        items: list[tuple[str, Any]] = []
        bytes_left = self._source.bytes_max
        count = len(self._partitions)
        first = self._turn
        for step in range(count):
            of, key = self._partitions[(first + step) % count]
            if not self._hooks.has_credit(of):
                continue
            records = self._put_back.pop(of, None) or self._poll(of)
            if records:
                group = self._hooks.group(of, records[0].offset) if self._hooks.group is not None else 0
                if group and items:
                    # It is handed over next time, by itself: what dies with it must be its own deed.
                    self._put_back[of] = records
                    self._turn = (first + step) % count
                    break
                records = self._cut(of, records)
                items.append((key, Block(of.topic, of.partition, records)))
                if group:
                    self._turn = (first + step + 1) % count
                    break
                bytes_left -= self._size_up(of, records)
                if bytes_left <= 0:
                    # The others are first next time.
                    self._turn = (first + step + 1) % count
                    break
        return items

    def _poll(self, of: TopicPartition) -> Sequence[Record]:
        assert self._reader is not None, "polled after its end"
        try:
            return self._reader.poll(of, self._records_max[of])
        except OffsetOutOfRange as error:
            if self._hooks.on_out_of_range is None:
                raise
            positions = {other: self._reader.position(other) for other, _ in self._partitions if other != of}
            positions[of] = self._hooks.on_out_of_range(error)
            self._reader.close()
            self._reader = self._source.open_reader(positions)
            return ()

    def _cut(self, of: TopicPartition, records: Sequence[Record]) -> Sequence[Record]:
        """Returns what may be handed over together, and puts the rest back."""
        group = self._hooks.group
        if group is None:
            return records
        count = run_length([group(of, record.offset) for record in records])
        if count < len(records):
            self._put_back[of] = records[count:]
        return records[:count]

    def _size_up(self, of: TopicPartition, records: Sequence[Record]) -> int:
        """Returns the bytes of the records, and bounds the partition's next block by their mean."""
        size = sum([len(record.value) for record in records if record.value is not None])
        fitting = self._source.bytes_max * len(records) // max(size, 1)
        self._records_max[of] = max(1, min(self._source.records_max, fitting))
        return size
