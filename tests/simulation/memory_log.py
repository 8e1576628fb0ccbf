"""A `Log` in memory with faults on demand, and processes that die in the middle of what they do.

It keeps the port's promises (a record is visible when it is acknowledged, appends keep their order) and
breaks, when told to, exactly what the port allows to break: an append that fails was written or was not, an
end is not known, a partition's beginning is forgotten. Compacted topics keep everything, as a log that has
not compacted yet may.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NoReturn

from dataflows.connectors.log.port import (
    Appended,
    Entry,
    GroupOffset,
    OffsetOutOfRange,
    OnAppended,
    Reader,
    Record,
    TopicPartition,
)
from schemas.errors import LogUnavailable

START_MS = 1_700_000_000_000


class Fault(Enum):
    """What becomes of an append."""

    NONE = "written and acknowledged"
    LOST = "not written, reported as failed"
    UNSURE = "written, reported as failed"


class Died(BaseException):
    """The process was killed; nothing in it may catch this."""


class MemoryLog:
    """Topics in memory. Acknowledges inside `append`, or, `is_threaded`, from a thread as real logs do."""

    def __init__(self, partitions: Mapping[str, int], *, is_threaded: bool = False) -> None:
        self.cluster_id = "memory"
        self.now_ms = START_MS
        self.fault: Callable[[TopicPartition, Sequence[Entry]], Fault] = lambda _to, _entries: Fault.NONE
        self.unknown_ends: set[str] = set()
        self.commit_count = 0
        self._partitions = dict(partitions)
        self._records: dict[TopicPartition, list[Record]] = {}
        self._starts: dict[TopicPartition, int] = {}
        self._groups: dict[tuple[str, TopicPartition], GroupOffset] = {}
        self._unsettled: list[tuple[TopicPartition, Sequence[Entry], OnAppended]] = []
        self._changed = threading.Condition(threading.RLock())
        self._is_closed = False
        self._thread: threading.Thread | None = None
        if is_threaded:
            self._thread = threading.Thread(target=self._run, name="memory-log", daemon=True)
            self._thread.start()

    def partition_count(self, topic: str) -> int:
        return self._partitions[topic]

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        with self._changed:
            self._unsettled.append((to, entries, on_appended))
            if self._thread is None:
                self.settle()
            else:
                self._changed.notify_all()

    def settle(self) -> None:
        """Decides the appends that wait, in order."""
        with self._changed:
            is_changed = bool(self._unsettled)
            while self._unsettled:
                to, entries, on_appended = self._unsettled.pop(0)
                fault = self.fault(to, entries)
                first = self._next(to)
                if fault is not Fault.LOST:
                    records = self._records.setdefault(to, [])
                    records += [Record(first + i, self.now_ms, e.key, e.value) for i, e in enumerate(entries)]
                if fault is Fault.NONE:
                    on_appended(Appended(first, self.now_ms))
                else:
                    on_appended(LogUnavailable(f"{to.topic}[{to.partition}]: not acknowledged in time"))
            if is_changed:
                self._changed.notify_all()

    def append_and_wait(
        self, to: TopicPartition, entries: Sequence[Entry], timeout_s: float = 2.0
    ) -> Appended:
        del timeout_s
        results: list[object] = []
        with self._changed:
            self.append(to, entries, results.append)
            self.settle()
        if not isinstance(results[0], Appended):
            raise LogUnavailable(str(results[0]))
        return results[0]

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        return _MemoryReader(self, dict(positions))

    def start(self, of: TopicPartition) -> int:
        return self._starts.get(of, 0)

    def end(self, of: TopicPartition) -> int:
        if of.topic in self.unknown_ends:
            raise LogUnavailable(f"{of.topic}: the end is not known now")
        return self._next(of)

    def _next(self, of: TopicPartition) -> int:
        records = self._records.get(of)
        return records[-1].offset + 1 if records else self.start(of)

    def offset_for_time(self, of: TopicPartition, at_ms: int) -> int:
        return next((r.offset for r in self.records(of) if r.timestamp_ms >= at_ms), self.end(of))

    def commit(self, group: str, offsets: Mapping[TopicPartition, GroupOffset]) -> None:
        with self._changed:
            self.commit_count += 1
            self._groups.update({(group, of): offset for of, offset in offsets.items()})
            self._changed.notify_all()

    def committed(self, group: str, of: TopicPartition) -> GroupOffset | None:
        return self._groups.get((group, of))

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self.settle()

    def _run(self) -> None:
        with self._changed:
            while not self._is_closed:
                self.settle()
                self._changed.wait_for(lambda: self._is_closed or bool(self._unsettled))

    def records(self, of: TopicPartition, first: int = 0, count: int | None = None) -> list[Record]:
        """What stands in a partition."""
        with self._changed:
            skipped = first - self.start(of)
            found = self._records.get(of, [])[max(skipped, 0) :]
            return found if count is None else found[:count]

    def forget_below(self, of: TopicPartition, offset: int) -> None:
        """Retention passes."""
        with self._changed:
            self._records[of] = [record for record in self.records(of) if record.offset >= offset]
            self._starts[of] = offset

    def wait_until(self, holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Waits for a fact, looked at after every append and commit, and every few milliseconds."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while not holds():
                assert time.monotonic() < deadline_s, "did not come true in time"
                self._changed.wait(0.01)


class _MemoryReader:
    def __init__(self, log: MemoryLog, positions: dict[TopicPartition, int]) -> None:
        self._log = log
        self._positions = positions

    def poll(self, of: TopicPartition, records_max: int) -> Sequence[Record]:
        at = self._positions[of]
        start = self._log.start(of)
        records = self._log.records(of, at, records_max)
        if at < start or (not records and at > self._log._next(of)):
            raise OffsetOutOfRange(of, at, start, self._log._next(of))
        if records:
            self._positions[of] = records[-1].offset + 1
        return records

    def position(self, of: TopicPartition) -> int:
        return self._positions[of]

    def close(self) -> None:
        self._positions = {}


class MortalLog(MemoryLog):
    """A process's connection to a `MemoryLog`: after `calls_left` reads and writes the process is dead.

    Whatever the dead process still tries has no effect, so there is no final commit on the way out either.
    """

    def __init__(self, inner: MemoryLog, calls_left: int) -> None:
        self.inner = inner
        self.cluster_id = inner.cluster_id
        self.calls_left = calls_left
        self._lock = threading.Lock()

    def partition_count(self, topic: str) -> int:
        return self.inner.partition_count(topic)

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        self._live()
        self.inner.append(to, entries, on_appended)

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        return _MortalReader(self, self.inner.reader(positions))

    def start(self, of: TopicPartition) -> int:
        return self.inner.start(of)

    def end(self, of: TopicPartition) -> int:
        return self.inner.end(of)

    def commit(self, group: str, offsets: Mapping[TopicPartition, GroupOffset]) -> None:
        if self.calls_left > 0:
            self.inner.commit(group, offsets)

    def committed(self, group: str, of: TopicPartition) -> GroupOffset | None:
        return self.inner.committed(group, of)

    def _live(self) -> None:
        with self._lock:
            self.calls_left -= 1
            if self.calls_left <= 0:
                _die()


class _MortalReader:
    def __init__(self, log: MortalLog, inner: Reader) -> None:
        self._log = log
        self._inner = inner

    def poll(self, of: TopicPartition, records_max: int) -> Sequence[Record]:
        records = self._inner.poll(of, records_max)
        if records:
            self._log._live()
        return records

    def position(self, of: TopicPartition) -> int:
        return self._inner.position(of)

    def close(self) -> None:
        self._inner.close()


def _die() -> NoReturn:
    raise Died
