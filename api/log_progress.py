"""How far the delivery log has come: a read says up to when it is complete, instead of looking empty.

It is complete up to the oldest record that `record` has not committed yet. Reading the group's offsets and at
most one record per partition costs some tens of microseconds; the answer is kept for a quarter of a second.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from dataflows.connectors.log.port import Log, OffsetOutOfRange, TopicPartition

_KEPT_MS: Final = 250


class LogProgress(Struct, frozen=True):
    """What reads of the delivery log carry.

    Attributes:
        as_of_ms: everything recorded up to then can be read.
        delayed_ms: how long ago that was; 0 when nothing is waiting.
    """

    as_of_ms: int
    delayed_ms: int


class ProgressReader:
    """Asks how far the group that fills the delivery log has come. Any thread may call it."""

    def __init__(self, log: Log, group: str, topics: Sequence[str], clock_ms: Callable[[], int]) -> None:
        self._log = log
        self._group = group
        self._partitions = [
            TopicPartition(topic, partition)
            for topic in topics
            for partition in range(log.partition_count(topic))
        ]
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._kept: LogProgress | None = None
        self._kept_at_ms = 0

    def progress(self) -> LogProgress:
        """Returns how far it has come, at most a quarter of a second ago."""
        with self._lock:
            now_ms = self._clock_ms()
            if self._kept is None or not 0 <= now_ms - self._kept_at_ms < _KEPT_MS:
                waiting = [
                    at_ms for of in self._partitions if (at_ms := self._oldest_waiting_ms(of)) is not None
                ]
                as_of_ms = min(waiting, default=now_ms)
                self._kept = LogProgress(as_of_ms, max(0, now_ms - as_of_ms))
                self._kept_at_ms = now_ms
            return self._kept

    def _oldest_waiting_ms(self, of: TopicPartition) -> int | None:
        """Returns the record time of the first record that is not committed, None when there is none."""
        committed = self._log.committed(self._group, of)
        offset = self._log.start(of) if committed is None else committed.offset
        if offset >= self._log.end(of):
            return None
        reader = self._log.reader({of: offset})
        try:
            records = reader.poll(of, 1)
        except OffsetOutOfRange:  # retention passed it between two calls; the next read is right again
            return None
        finally:
            reader.close()
        return records[0].timestamp_ms if records else None
