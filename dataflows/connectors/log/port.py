"""The `Log` port: partitioned, ordered, durable topics with acknowledged appends and group offsets.

It is what Kafka offers, cut down to what we use, so that a RocksDB file on a laptop and a Kafka cluster serve
the same flows. Two choices matter:

- Appending is asynchronous with a completion callback, because a group commit or a broker answers many
appends at
  once. A record is visible to readers, and acknowledged, only after it is durable.
- Reading goes through a `Reader` that owns its positions and never blocks, because a Bytewax source must not.

Rejected: futures per record (a block of 1,000 needs one callback, not 1,000 objects); consumer-group
balancing (ownership of partitions is ours, see `shards`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from schemas.errors import HooktideError


class TopicPartition(NamedTuple):
    """Names one partition of one topic."""

    topic: str
    partition: int


class Entry(NamedTuple):
    """What is appended. `value` None deletes the key in a compacted topic."""

    key: bytes | None
    value: bytes | None


class Record(NamedTuple):
    """What is read: the entry, its offset, and the time at which the log took it (LogAppendTime, ms UTC)."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class Appended(NamedTuple):
    """A durable append: its entries stand at `first_offset`, `first_offset + 1`, ... in append order."""

    first_offset: int
    timestamp_ms: int


class GroupOffset(NamedTuple):
    """A group's committed position: the next offset to read, and the committer's own words."""

    offset: int
    metadata: str


OnAppended = Callable[[Appended | HooktideError], None]


class Reader(Protocol):
    """Reads some partitions forward from given positions. Owned by one thread."""

    def poll(self, of: TopicPartition, records_max: int) -> Sequence[Record]:
        """Returns the next records, at most `records_max`; empty when none is here now. Never blocks.

        Raises:
            OffsetOutOfRange: the position is below the log's start or above its end.
        """

    def position(self, of: TopicPartition) -> int:
        """Returns the offset that the next poll continues at; at the end the log's end, gaps included."""

    def close(self) -> None:
        """Frees what the reader holds."""


class Log(Protocol):
    """Topics with partitions. Every method may be called from any thread."""

    @property
    def cluster_id(self) -> str:
        """Names this log for ever; part of ids derived from positions."""

    def partition_count(self, topic: str) -> int:
        """Returns how many partitions the topic has; fixed when the log was made."""

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        """Queues the entries, in order, and returns at once.

        `on_appended` is called once, from the log's own thread and quickly: with `Appended` after the entries
        are durable, or with a `LogUnavailable` when they are not known to be. Appends of one caller thread to
        one partition keep their order.
        """

    def append_and_wait(
        self, to: TopicPartition, entries: Sequence[Entry], timeout_s: float = 2.0
    ) -> Appended:
        """Appends and waits for durability; for management writes and tests, never in a flow.

        Raises:
            LogUnavailable: no acknowledgement in time; the write may or may not have happened.
        """

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        """Returns a reader that starts at these offsets."""

    def start(self, of: TopicPartition) -> int:
        """Returns the lowest offset that can still be read (the end, when the partition is empty)."""

    def end(self, of: TopicPartition) -> int:
        """Returns the offset that the next durable record will get, gaps included."""

    def offset_for_time(self, of: TopicPartition, at_ms: int) -> int:
        """Returns the first offset whose record time is at or after `at_ms`; the end, when there is none."""

    def commit(self, group: str, offsets: Mapping[TopicPartition, GroupOffset]) -> None:
        """Stores the group's positions, all or none, durably.

        Raises:
            LogUnavailable: not known to be stored.
        """

    def committed(self, group: str, of: TopicPartition) -> GroupOffset | None:
        """Returns the group's position, or None when it never committed one."""

    def close(self) -> None:
        """Acknowledges what was queued, then frees everything. Appending afterwards is an error."""


class OffsetOutOfRange(HooktideError):  # noqa: N818 - reads as the fact it states
    """A position is below the log's start (retention passed it) or above its end (another log)."""

    def __init__(self, of: TopicPartition, offset: int, start: int, end: int) -> None:
        super().__init__(
            f"{of.topic}[{of.partition}]: offset {offset} is outside of what it holds ({start}..{end})"
        )
        self.of = of
        self.offset = offset
        self.start = start
        self.end = end
