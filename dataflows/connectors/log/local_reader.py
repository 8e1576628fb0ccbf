"""Reading the local log: range scans up to the visible end, and the search for a time.

A reader compares its position with two integers in memory before it touches RocksDB, so that polling an idle
partition costs less than a microsecond. What it returns is bounded in bytes as well as in records: a thousand
records of a megabyte must not arrive at once.
"""

from collections.abc import Mapping, Sequence

from dataflows.connectors.log.local_database import Database
from dataflows.connectors.log.local_keys import (
    OFFSET_END,
    PartitionState,
    decode_record,
    offset_of,
    record_key,
    timestamp_of,
)
from dataflows.connectors.log.port import OffsetOutOfRange, Record, TopicPartition
from schemas.errors import DamagedStore

POLL_BYTES_MAX = 8 << 20
_NOTHING: tuple[Record, ...] = ()


class LocalReader:
    """A `Reader` over the local log. Owned by one thread; several readers may run at once."""

    __slots__ = ("_database", "_positions", "_states")

    def __init__(
        self,
        database: Database,
        states: Mapping[TopicPartition, PartitionState],
        positions: Mapping[TopicPartition, int],
    ) -> None:
        self._database = database
        self._states = {of: states[of] for of in positions}
        self._positions = dict(positions)

    def poll(self, of: TopicPartition, records_max: int) -> Sequence[Record]:
        """Returns the next records, at most `records_max` and about 8 MiB; empty when none is here now.

        Raises:
            OffsetOutOfRange: the position is below the log's start or above its end.
            DamagedStore: the disk gave back something else than what was written.
        """
        state = self._states[of]
        position = self._positions[of]
        end = state.end
        if position == end:
            return _NOTHING
        if position > end or position < state.start:
            raise OffsetOutOfRange(of, position, state.start, end)
        prefix = state.prefix
        records = self._scan(prefix, position, end, records_max)
        if position < state.start:  # retention passed us while we read: what we have may have a hole
            raise OffsetOutOfRange(of, position, state.start, state.end)
        if state.retention_ms is not None:
            _check_dense(of, position, records)
        self._positions[of] = records[-1].offset + 1 if records else end
        return records

    def position(self, of: TopicPartition) -> int:
        """Returns the offset that the next poll continues at."""
        return self._positions[of]

    def close(self) -> None:
        """Does nothing: the reader holds no iterator between polls (one would pin deleted data)."""

    def _scan(self, prefix: bytes, position: int, end: int, records_max: int) -> list[Record]:
        records: list[Record] = []
        room = POLL_BYTES_MAX
        rows = self._database.scan(record_key(prefix, position), record_key(prefix, end))
        for key, raw in rows:
            records.append(decode_record(int.from_bytes(key[4:], "big"), raw))
            room -= len(raw)
            if room <= 0 or len(records) >= records_max:
                break
        return records


def _check_dense(of: TopicPartition, position: int, records: Sequence[Record]) -> None:
    """Refuses a hole: outside compacted topics every offset between start and end holds a record."""
    reached = records[-1].offset + 1 if records else position
    if not records or reached - position != len(records):
        raise DamagedStore(
            f"{of.topic}[{of.partition}] has a hole: {len(records)} records from offset {position} on reach "
            f"to {reached}. There is no second copy: restore a backup of the whole data directory"
        )


def first_offset_at(database: Database, state: PartitionState, at_ms: int) -> int:
    """Returns the first offset whose record time is at or after `at_ms`; the end, when there is none.

    A binary search over offsets: record times never go back within a partition. Where compaction left a hole
    the next record after it answers, so a step costs one seek however large the hole.

    Raises:
        DamagedStore: the disk gave back something else than what was written.
    """
    low, high = state.start, state.end
    found = high
    if at_ms > state.last_ms:
        return high
    while low < high:
        middle = (low + high) // 2
        row = database.first(record_key(state.prefix, middle), record_key(state.prefix, high))
        if row is None:  # nothing in the upper half
            high = middle
        elif timestamp_of(row[1]) >= at_ms:
            found, high = offset_of(row[0]), middle
        else:
            low = offset_of(row[0]) + 1
    return found


def last_offset_below(database: Database, state: PartitionState, end: int) -> int | None:
    """Returns the highest offset below `end` that holds a record."""
    row = database.last(record_key(state.prefix, 0), record_key(state.prefix, end))
    return None if row is None else offset_of(row[0])


def has_records_from(database: Database, state: PartitionState, offset: int) -> bool:
    """Returns whether any record stands at or above `offset`."""
    return database.first(record_key(state.prefix, offset), record_key(state.prefix, OFFSET_END)) is not None
