"""Writes blocks into a store in large batches, in a thread beside the flow, and commits what was written.

An insert into a columnar store costs tens of milliseconds however few its rows are, and may take seconds or
fail, so blocks are gathered until there are enough rows or the oldest has waited long enough, and the flow
goes on polling. Offsets are committed after the insert, batch by batch, so a crash repeats at most one
batch, and the writer recognises repeats.

While the store is down a batch is tried again with growing pauses, for ever, and the batches behind it wait:
the log keeps them, the source stops reading when `has_room` says no. Nothing is skipped and nothing is lost.

Rejected: inserting in the sink (a slow insert would look like a stalled flow); one batch per epoch (ties the
size of inserts to a clock that has other duties).
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import structlog
from msgspec import Struct

from dataflows.connectors.log.port import Entry, GroupOffset, Log, Record, TopicPartition
from dataflows.engine.block_source import Block
from operators.rejection import rejected_key
from schemas import topics
from schemas.dead_letter import Rejected
from schemas.errors import Unavailable
from schemas.wire import records

BACKOFF_MS_MIN = 100
BACKOFF_MS_MAX = 5_000
BATCHES_GATHERED_MAX = 3
"""Batches' worth of rows that may be in memory: one under way, and what comes in meanwhile."""
BYTES_GATHERED_MAX = 64 << 20
_JOIN_S = 1.0
_REJECTED = TopicPartition(topics.REJECTED.name, 0)
_READ_BY_OTHERS = frozenset({topics.EVENTS.name, topics.DELIVERIES.name})

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class Recording(Protocol):
    """What writes the rows; recognises what it wrote before."""

    def start(self, committed: Mapping[TopicPartition, int]) -> None:
        """Says where each partition goes on."""

    def write(self, blocks: Mapping[TopicPartition, Sequence[Record]]) -> list[Rejected]:
        """Writes the blocks durably; returns the records it cannot read."""


class WriteCounts(Struct):
    """What was written since the start."""

    rows: int = 0
    batches: int = 0
    failures: int = 0
    rejected: int = 0


class _AbortedError(Exception):
    """The thread is to end without finishing."""


class BatchWriter:
    """Gathers blocks and writes them in a thread of its own. `put` and the rest are the flow's thread's.

    Args:
        group: whose offsets are committed.
        positions: where the group starts, by partition.
        rows_max: of a batch; a batch has at least one block, so it may be larger by one.
        interval_ms: how long the oldest gathered block may wait, milliseconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        log: Log,
        group: str,
        recording: Recording,
        positions: Mapping[TopicPartition, int],
        *,
        rows_max: int,
        interval_ms: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = WriteCounts()
        self._log = log
        self._group = group
        self._recording = recording
        self._written = dict(positions)
        self._rows_max = rows_max
        self._interval_s = interval_ms / 1_000
        self._clock = clock
        self._changed = threading.Condition()
        self._gathered: deque[tuple[Block, int]] = deque()
        self._rows = 0
        self._bytes = 0
        self._due_at_s = 0.0
        self._is_finishing = False
        self._is_aborted = False
        self._is_done = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"write-{group}", daemon=True)

    @property
    def written(self) -> Mapping[TopicPartition, int]:
        """By partition, the offset below which everything is written and committed; any thread may look."""
        return self._written

    @property
    def has_room(self) -> bool:
        """Whether another block may be put."""
        return self._rows < self._rows_max * BATCHES_GATHERED_MAX and self._bytes < BYTES_GATHERED_MAX

    @property
    def is_done(self) -> bool:
        """Whether the thread has ended: all is written after `finish`, or it was aborted, or died."""
        return self._is_done

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def put(self, block: Block) -> None:
        """Takes a block; blocks of a partition come in order."""
        size = sum([len(record.value or b"") for record in block.records])
        with self._changed:
            if not self._gathered:
                self._due_at_s = self._clock() + self._interval_s
            self._gathered.append((block, size))
            self._rows += len(block.records)
            self._bytes += size
            self._changed.notify()

    def check(self) -> None:
        """Raises what killed the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Says that nothing more comes: what is gathered is written at once, then the thread ends."""
        with self._changed:
            self._is_finishing = True
            self._changed.notify()

    def abort(self) -> None:
        """Ends the thread after the call it is in; what is not committed is read again at the next start."""
        with self._changed:
            self._is_aborted = True
            self._changed.notify()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            self._recording.start(dict(self._written))
            while blocks := self._next_batch():
                self._store(blocks)
        except _AbortedError:
            pass
        except BaseException as error:  # noqa: BLE001 - surfaces through `check` in the flow's thread
            self._error = error
        finally:
            self._is_done = True

    def _next_batch(self) -> list[Block]:
        """Waits for a batch; returns none when there is nothing left to wait for."""
        with self._changed:
            while not self._is_batch_due():
                if self._is_finishing and not self._gathered:
                    return []
                pause_s = self._due_at_s - self._clock() if self._gathered else None
                self._changed.wait(pause_s)
            blocks: list[Block] = []
            rows = 0
            while self._gathered and (
                not blocks or rows + len(self._gathered[0][0].records) <= self._rows_max
            ):
                block, size = self._gathered.popleft()
                blocks.append(block)
                rows += len(block.records)
                self._bytes -= size
            self._rows -= rows
        return blocks

    def _is_batch_due(self) -> bool:
        if self._is_aborted:
            raise _AbortedError
        if not self._gathered:
            return False
        return self._is_finishing or self._rows >= self._rows_max or self._clock() >= self._due_at_s

    def _store(self, blocks: Sequence[Block]) -> None:
        by_partition: dict[TopicPartition, list[Record]] = defaultdict(list)
        for block in blocks:
            by_partition[block.of] += block.records
        rejected = self._until_done("insert", lambda: self._recording.write(by_partition))
        # `route` and `deliver` read these topics too and reject what they cannot read.
        own = [one for one in rejected if one.topic not in _READ_BY_OTHERS]
        if own:
            entries = [Entry(rejected_key(one), records.REJECTED.encode(one)) for one in own]
            self._until_done("reject", lambda: self._log.append_and_wait(_REJECTED, entries))
        ends = {of: GroupOffset(found[-1].offset + 1, "") for of, found in by_partition.items()}
        self._until_done("commit", lambda: self._log.commit(self._group, ends))
        self._written.update({of: end.offset for of, end in ends.items()})
        self.counts.rows += sum([len(found) for found in by_partition.values()])
        self.counts.batches += 1
        self.counts.rejected += len(own)

    def _until_done(self, what: str, action: Callable[[], T]) -> T:
        delay_ms = BACKOFF_MS_MIN
        while True:
            try:
                return action()
            except Unavailable as error:
                self.counts.failures += 1
                _log.warning(
                    "batch_failed", group=self._group, step=what, retry_delay_ms=delay_ms, error=str(error)
                )
            with self._changed:
                if self._changed.wait_for(lambda: self._is_aborted, delay_ms / 1_000):
                    raise _AbortedError
            delay_ms = min(delay_ms * 2, BACKOFF_MS_MAX)
