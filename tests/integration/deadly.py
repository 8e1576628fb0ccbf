"""Ports that kill whoever works on one marked record, in the ways a process can be killed by its input.

They are what the real ports are, handed in through the same seams; `die` says what a death is: an exception
that nothing catches, or SIGKILL.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from dataflows.connectors.log.port import Entry, OnAppended, Reader, Record, TopicPartition
from operators.shard.store_port import Batch, Family, ShardStore

MARK = b"deadly-record"

Die = Callable[[], NoReturn]


class DeadlyBytes(bytes):
    """Bytes that kill whoever looks at them."""

    die: Die

    def __bool__(self) -> bool:  # noqa: PLE0304 - it never returns
        self.die()


class Wrapped:
    """Passes everything on to what it wraps."""

    def __init__(self, inner: Any) -> None:  # noqa: ANN401 - any port
        self._inner = inner

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any port
        return getattr(self._inner, name)


class LogThatKillsReaders(Wrapped):
    """A log whose marked record cannot be looked at."""

    def __init__(self, inner: Any, topic: str, die: Die) -> None:  # noqa: ANN401 - any log
        super().__init__(inner)
        self._topic = topic
        self._die = die

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        reader: Reader = self._inner.reader(positions)
        is_it = any(of.topic == self._topic for of in positions)
        return _DeadlyReader(reader, self._deadly) if is_it else reader

    def _deadly(self, value: bytes) -> DeadlyBytes:
        deadly = DeadlyBytes(value)
        deadly.die = self._die
        return deadly


class _DeadlyReader(Wrapped):
    def __init__(self, inner: Reader, deadly: Callable[[bytes], bytes]) -> None:
        super().__init__(inner)
        self._deadly = deadly

    def poll(self, of: TopicPartition, records_max: int) -> Sequence[Record]:
        return [
            record._replace(value=self._deadly(record.value))
            if record.value is not None and MARK in record.value
            else record
            for record in self._inner.poll(of, records_max)
        ]


class LogThatKillsWriters(Wrapped):
    """A log that takes no marked entry into these topics."""

    def __init__(self, inner: Any, topics: Sequence[str], die: Die) -> None:  # noqa: ANN401 - any log
        super().__init__(inner)
        self._topics = topics
        self._die = die

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        if to.topic in self._topics and any(entry.value and MARK in entry.value for entry in entries):
            self._die()
        self._inner.append(to, entries, on_appended)


class DeadlyStore(Wrapped):
    """A shard's store that does not survive writing certain rows, or reading them back."""

    def __init__(
        self,
        inner: ShardStore,
        die: Die,
        *,
        is_write_deadly: Callable[[Family, bytes], bool] = lambda _family, _value: False,
        is_read_deadly: bool = False,
    ) -> None:
        super().__init__(inner)
        self._die = die
        self._is_write_deadly = is_write_deadly
        self._is_read_deadly = is_read_deadly

    def batch(self) -> Batch:
        return _DeadlyBatch(self._inner.batch(), self._is_write_deadly)

    def write(self, batch: Any) -> None:  # noqa: ANN401 - a batch of ours
        if batch.is_deadly:
            self._die()
        self._inner.write(batch.inner)

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        rows: list[bytes | None] = self._inner.get_many(family, keys)
        if self._is_read_deadly and any(row is not None and MARK in row for row in rows):
            self._die()
        return rows


class _DeadlyBatch(Wrapped):
    def __init__(self, inner: Batch, is_deadly: Callable[[Family, bytes], bool]) -> None:
        super().__init__(inner)
        self.inner = inner
        self.is_deadly = False
        self._judge = is_deadly

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        self.is_deadly |= self._judge(family, value)
        self.inner.put(family, key, value)
