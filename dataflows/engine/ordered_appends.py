"""Appends that keep the order of a partition through failures: one on its way at a time, never two.

An append that fails may or may not have happened, and is repeated until it has. If a second one had been
sent behind it, the second could stand first, and a customer's events would change places. So each partition
is a line: what comes while an append is under way waits, and goes out together in the next one. That costs
no throughput (what waits grows into one larger append, as in a group commit) and needs no help from the log
beyond an acknowledgement.

A repeat may write entries twice; their keys are derived ids, and readers drop the second.

Everything but the acknowledgement happens in the thread of the flow, in `put` and `pump`; acknowledgements
cross over in a deque, whose append is atomic.

Rejected: pipelining with a fence on failure (only Kafka's idempotent producer has it, and the local log
would need a second mechanism); repeating from the log's thread (two threads in one line).
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from dataflows.connectors.log.port import Appended, Entry, OnAppended, TopicPartition
from schemas.errors import HooktideError, Unavailable

APPEND_BYTES_MAX = 1 << 20
BACKOFF_MS_MIN = 50
BACKOFF_MS_MAX = 5_000

OnDurable = Callable[[int], None]

_log = structlog.get_logger(__name__)


class Appends(Protocol):
    """What is needed of a `Log`."""

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        """Queues the entries, as `Log.append` does."""


class _Parcel:
    __slots__ = ("entries", "on_durable", "size")

    def __init__(self, entries: Sequence[Entry], on_durable: OnDurable) -> None:
        self.entries = entries
        self.on_durable = on_durable
        self.size = sum([len(entry.value or b"") for entry in entries])


class _Line:
    """What waits for one partition, and what is on its way there."""

    __slots__ = ("failures", "repeat_at_s", "to", "under_way", "waiting")

    def __init__(self, to: TopicPartition) -> None:
        self.to = to
        self.waiting: deque[_Parcel] = deque()
        self.under_way: list[_Parcel] = []
        self.failures = 0
        self.repeat_at_s = 0.0


class OrderedAppends:
    """Lines of appends to any partitions. Owned by one thread, which pumps every few milliseconds.

    Args:
        clock: monotonic seconds, for the backoff between repeats.
    """

    def __init__(self, log: Appends, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._lines: dict[TopicPartition, _Line] = {}
        self._results: deque[tuple[_Line, Appended | HooktideError]] = deque()
        self._failed: list[_Line] = []
        self.entries_open = 0
        self.bytes_open = 0

    def put(self, to: TopicPartition, entries: Sequence[Entry], on_durable: OnDurable) -> None:
        """Puts entries at the end of the line.

        Args:
            to: where they go.
            entries: in order.
            on_durable: called from `pump`, when they are durable, with the offset of the first of them.
        """
        line = self._lines.get(to)
        if line is None:
            line = self._lines[to] = _Line(to)
        parcel = _Parcel(entries, on_durable)
        self.entries_open += len(entries)
        self.bytes_open += parcel.size
        line.waiting.append(parcel)
        if not line.under_way:
            self._send_next(line)

    def pump(self) -> None:
        """Takes in what was acknowledged, repeats what failed when its time has come, sends what waited.

        Raises:
            HooktideError: the log refused an append for a reason that repeating does not heal.
        """
        results = self._results
        while results:
            line, result = results.popleft()
            if isinstance(result, Appended):
                self._delivered(line, result.first_offset)
            elif isinstance(result, Unavailable):
                self._failed_once(line, result)
            else:
                raise result
        if self._failed:
            now_s = self._clock()
            due = [line for line in self._failed if line.repeat_at_s <= now_s]
            self._failed = [line for line in self._failed if line.repeat_at_s > now_s]
            for line in due:
                self._send(line)

    def _delivered(self, line: _Line, offset: int) -> None:
        parcels, line.under_way = line.under_way, []
        line.failures = 0
        self._send_next(line)
        for parcel in parcels:
            self.entries_open -= len(parcel.entries)
            self.bytes_open -= parcel.size
            parcel.on_durable(offset)
            offset += len(parcel.entries)

    def _failed_once(self, line: _Line, error: Unavailable) -> None:
        delay_ms = min(BACKOFF_MS_MIN << min(line.failures, 16), BACKOFF_MS_MAX)
        line.failures += 1
        line.repeat_at_s = self._clock() + delay_ms / 1_000
        self._failed.append(line)
        _log.warning(
            "append_failed",
            topic=line.to.topic,
            partition=line.to.partition,
            failures=line.failures,
            retry_delay_ms=delay_ms,
            error=str(error),
        )

    def _send_next(self, line: _Line) -> None:
        size = 0
        while line.waiting and (not line.under_way or size + line.waiting[0].size <= APPEND_BYTES_MAX):
            parcel = line.waiting.popleft()
            size += parcel.size
            line.under_way.append(parcel)
        if line.under_way:
            self._send(line)

    def _send(self, line: _Line) -> None:
        parcels = line.under_way
        entries = parcels[0].entries if len(parcels) == 1 else [entry for p in parcels for entry in p.entries]
        results = self._results
        try:
            self._log.append(line.to, entries, lambda result: results.append((line, result)))
        except Unavailable as error:
            results.append((line, error))
