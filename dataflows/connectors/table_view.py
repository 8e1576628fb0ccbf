"""A table view: one compacted topic as a dictionary, key -> decoded value, kept up to date by reading on.

Any thread may call `catch_up`, and whoever needs the view at a position does so until `reached(end)` (read
your writes: ask the log for its end, then wait for the view to reach it).

A view never goes past a record that it cannot read. Such a record is one of a newer version (a rolling
upgrade) or a damaged one; skipping it would make an endpoint vanish, keeping the old value would send to an
address that its owner has changed, both silently. So `catch_up` raises, the position stays before the record,
`reached` stays False, and `route` waits and alarms instead of matching with an old view. It heals by itself
once the key is written again in a form this version reads: a record that is replaced later is never needed.

The view lives in memory and is built from the log at every start. Rejected: a copy in RocksDB per process.
Reading and decoding 100,000 endpoints from the local log takes about a second; a copy would need a position,
a format and a repair path of its own to save that, and decoding, the larger part, would still be done.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from dataflows.connectors.log.port import Log, Record, TopicPartition
from schemas.errors import BadInput, FormatMismatch, UnreadableRecord

T = TypeVar("T")
OnChange = Callable[[str, T | None, T | None], None]
_BLOCK = 1_000


class TableView(Generic[T]):
    """One compacted topic of one partition. Any thread may call it.

    Args:
        log: is read from the topic's start.
        topic: a compacted topic with one partition.
        decode: bytes to value; raises an error of ours (`BadInput`) for what it cannot read.

    Attributes:
        version: raised by every applied change; equal versions mean equal contents.
    """

    def __init__(self, log: Log, topic: str, decode: Callable[[bytes], T]) -> None:
        assert log.partition_count(topic) == 1, f"{topic} has several partitions: a view has one position"
        self._log = log
        self._of = TopicPartition(topic, 0)
        self._decode = decode
        self._reader = log.reader({self._of: log.start(self._of)})
        self._position = self._reader.position(self._of)
        self._values: dict[str, T] = {}
        self._subscribers: list[OnChange[T]] = []
        self._lock = threading.RLock()  # reentrant: a subscriber may look things up
        self.version = 0

    @property
    def position(self) -> int:
        """The offset up to which the view is complete."""
        return self._position

    def reached(self, end: int) -> bool:
        """Returns whether everything below `end` is in the view."""
        return self._position >= end

    def catch_up(self, limit_records: int = 10_000) -> int:
        """Applies what has come since, at most about `limit_records`, and returns how many records that were.

        Raises:
            FormatMismatch: a record cannot be read; everything before it is applied. Calling again tries
            again.
            OffsetOutOfRange: the log has forgotten or lost what comes next; the view is of no use any more.
        """
        with self._lock:
            applied = 0
            try:
                while applied < limit_records:
                    records = self._reader.poll(self._of, min(_BLOCK, limit_records - applied))
                    for place, record in enumerate(records):
                        self._apply(record, records, place)
                        self._position = record.offset + 1
                    self._position = self._reader.position(self._of)
                    applied += len(records)
                    if not records:
                        break
            except BaseException:  # the reader is past records that are not applied: go back to them
                self._reader.close()
                self._reader = self._log.reader({self._of: self._position})
                raise
            return applied

    def get(self, key: str) -> T | None:
        """Returns the key's value, or None when it has none or was deleted."""
        return self._values.get(key)

    def items(self) -> list[tuple[str, T]]:
        """Returns every key and value, as they are at one moment."""
        with self._lock:
            return list(self._values.items())

    def __len__(self) -> int:
        return len(self._values)

    def on_change(self, callback: OnChange[T]) -> None:
        """Subscribes `callback(key, old, new)`, and calls it at once for everything that is there already.

        It is called under the view's lock, by whichever thread catches up, and must be quick. `new` None is a
        deletion.
        """
        with self._lock:
            self._subscribers.append(callback)
            for key, value in self._values.items():
                callback(key, None, value)

    def close(self) -> None:
        """Frees the reader."""
        with self._lock:
            self._reader.close()

    def _apply(self, record: Record, block: Sequence[Record], place: int) -> None:
        try:
            key = _key_of(record)
            new = None if record.value is None else self._decode(record.value)
        except (BadInput, UnicodeDecodeError) as error:
            if any(later.key == record.key for later in block[place + 1 :]):
                return  # replaced already: what it said does not count any more
            raise FormatMismatch(
                f"{self._of.topic}[0] offset {record.offset}, key {record.key!r}: {error}. This process "
                f"reads no "
                "further: start the version that wrote the record, or write the key again"
            ) from error
        old = self._values.get(key)
        if new is None:
            self._values.pop(key, None)
        else:
            self._values[key] = new
        self.version += 1
        for subscriber in self._subscribers:
            subscriber(key, old, new)


def _key_of(record: Record) -> str:
    if record.key is None:
        raise UnreadableRecord("the record has no key")
    return record.key.decode()
