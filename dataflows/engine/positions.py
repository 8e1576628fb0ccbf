"""Which part of a topic has been dealt with, when the work ends in another order than it began.

A group's offset says "everything below is done". Blocks of a partition are acknowledged by whoever takes
them over (another topic, a store), and the second may be acknowledged before the first; the offset may then
not move past the first. So each partition keeps its open ranges in order and gives the end of the finished
prefix.

Rejected: committing what was read (a crash would skip what was not yet acknowledged); one set of offsets
(memory per record, where a block needs one entry).
"""

import threading
from collections import deque
from collections.abc import Iterable

import structlog

from dataflows.connectors.log.port import Log, OffsetOutOfRange, TopicPartition
from schemas.errors import Refused

_log = structlog.get_logger(__name__)


def start_positions(log: Log, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """Returns where a group goes on in each partition: at its offset, else at the log's start.

    Raises:
        Refused: an offset lies above the log's end: it belongs to another log, or records were lost.
    """
    positions: dict[TopicPartition, int] = {}
    for of in partitions:
        committed = log.committed(group, of)
        positions[of] = log.start(of) if committed is None else committed.offset
        end = log.end(of)
        if positions[of] > end:
            raise Refused(_above_the_end(OffsetOutOfRange(of, positions[of], log.start(of), end), group))
    return positions


def go_on_at_start(error: OffsetOutOfRange, group: str) -> int:
    """Returns the log's start, where a group that fell behind retention goes on; the gap is logged.

    Raises:
        Refused: the offset lies above the log's end.
    """
    if error.offset > error.end:
        raise Refused(_above_the_end(error, group)) from error
    _log.error(
        "records_lost_to_retention",
        group=group,
        topic=error.of.topic,
        partition=error.of.partition,
        first=error.offset,
        count=error.start - error.offset,
    )
    return error.start


def _above_the_end(error: OffsetOutOfRange, group: str) -> str:
    return (
        f"group {group}: {error}. The offset belongs to another log, or the log lost records; restore the "
        "log, or reset the group's offset to go on without them"
    )


class _Range:
    __slots__ = ("end", "is_done")

    def __init__(self, end: int) -> None:
        self.end = end
        self.is_done = False


class ContiguousAcks:
    """The open ranges of some partitions. Thread-safe: acknowledgements may come from the log's thread.

    Invariants: `committable` never passes a range that is not acknowledged, and never falls.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[TopicPartition, deque[_Range]] = {}
        self._by_first: dict[tuple[TopicPartition, int], _Range] = {}
        self._committable: dict[TopicPartition, int] = {}
        self._advanced: set[TopicPartition] = set()

    def begin(self, of: TopicPartition, first: int, end: int) -> None:
        """Opens first <= offset < end; the ranges of a partition begin in ascending order, gaps allowed."""
        assert first < end, f"{of}: the range {first}..{end} is empty"
        opened = _Range(end)
        with self._lock:
            ranges = self._open.setdefault(of, deque())
            last = ranges[-1].end if ranges else self._committable.get(of, 0)
            assert first >= last, f"{of}: {first}..{end} begins below {last}, which was begun before"
            ranges.append(opened)
            self._by_first[of, first] = opened

    def acknowledge(self, of: TopicPartition, first: int) -> None:
        """Says that the range that began at `first` is done.

        Raises:
            KeyError: no such range is open; nothing changes.
        """
        with self._lock:
            self._by_first.pop((of, first)).is_done = True
            ranges = self._open[of]
            while ranges and ranges[0].is_done:
                self._committable[of] = ranges.popleft().end
                self._advanced.add(of)

    def committable(self, of: TopicPartition) -> int | None:
        """Returns the offset below which everything begun is done; None before the first such."""
        with self._lock:
            return self._committable.get(of)

    def take_advanced(self) -> dict[TopicPartition, int]:
        """Returns the committable offsets that rose since the last call."""
        if not self._advanced:  # asked at every poll; a miss is seen at the next one
            return {}
        with self._lock:
            advanced = {of: self._committable[of] for of in self._advanced}
            self._advanced.clear()
        return advanced

    @property
    def open_count(self) -> int:
        """How many ranges are begun and not acknowledged."""
        return len(self._by_first)
