"""From blocks of log records to rows of the delivery log, exactly once in effect: `record` but its wiring.

The flow polls, calls `write`, and commits its positions after it returned. One call makes at most one
insert a table, because an insert costs about 10 ms however few rows it has. Order between the tables does
not matter: every row stands for itself, and each table is filtered by itself (see `operators.recorder`).

A record that cannot be read comes back as `Rejected`; it neither stops the block nor vanishes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from dataflows.connectors.delivery_log.port import DeliveryLog
from dataflows.connectors.log.port import Record, TopicPartition
from operators import log_rows
from operators.event_identity import identify
from operators.log_rows import Row
from operators.recorder import RowFilter
from schemas import topics
from schemas.dead_letter import Rejected
from schemas.delivery import Delivery
from schemas.errors import UnreadableRecord
from schemas.transition import RowStamp
from schemas.wire import records as wire

# The stamp of a row, as SQL: events and deliveries are named by their position, the rest by their outbox
# stamp.
HIGHEST_POSITION = """
SELECT count() AS found, toUInt64(0) AS highest_epoch, max(offset) AS highest_sequence FROM /*table*/
WHERE partition = {partition:UInt32} AND offset >= {sequence:UInt64}
SETTINGS max_execution_time = 60
"""
PRESENT_POSITIONS = """
SELECT DISTINCT toUInt64(0) AS epoch, offset AS sequence FROM /*table*/
WHERE partition = {partition:UInt32} AND offset IN {sequences:Array(UInt64)}
SETTINGS max_execution_time = 60
"""
HIGHEST_STAMP = """
SELECT count() AS found, max((epoch, sequence)) AS highest,
    highest.1 AS highest_epoch, highest.2 AS highest_sequence
FROM /*table*/
WHERE partition = {partition:UInt32}
    AND (epoch > {epoch:UInt64} OR (epoch = {epoch:UInt64} AND sequence >= {sequence:UInt64}))
SETTINGS max_execution_time = 60
"""
PRESENT_STAMPS = """
SELECT DISTINCT epoch, sequence FROM /*table*/
WHERE partition = {partition:UInt32} AND epoch IN {epochs:Array(UInt64)}
    AND sequence IN {sequences:Array(UInt64)}
SETTINGS max_execution_time = 60
"""
_TABLE = "/*table*/"
_BY_POSITION = frozenset({log_rows.EVENTS, log_rows.DELIVERIES})
RECORDED_TOPICS = (topics.EVENTS, topics.DELIVERIES, topics.TRANSITIONS, topics.DEAD_LETTERS)
"""What `record` reads."""


class _Rows:
    """Rows of one table from one partition, each with its stamp."""

    __slots__ = ("rows", "stamps")

    def __init__(self) -> None:
        self.stamps: list[RowStamp] = []
        self.rows: list[Row] = []

    def add(self, stamp: RowStamp, row: Row) -> None:
        self.stamps.append(stamp)
        self.rows.append(row)


_Tables = Mapping[str, _Rows]
_Reader = Callable[[TopicPartition, Record, _Tables], None]


class Recording:
    """Writes records into the delivery log. Owned by one thread.

    Args:
        cluster_id: the log's; names events that came without id and key.
    """

    def __init__(self, delivery_log: DeliveryLog, cluster_id: str) -> None:
        self._log = delivery_log
        self._cluster_id = cluster_id
        self._filters = {table: RowFilter() for table in log_rows.COLUMNS}
        self._readers: dict[str, _Reader] = {
            topics.EVENTS.name: self._read_event,
            topics.DELIVERIES.name: self._read_delivery,
            topics.TRANSITIONS.name: self._read_transition,
            topics.DEAD_LETTERS.name: self._read_dead_letter,
        }

    def start(self, committed: Mapping[TopicPartition, int]) -> None:
        """Says that these partitions are read from these offsets; what is new in them, the tables say."""
        for of in committed:
            for table in _TABLES_OF[of.topic]:
                self._filters[table].forget(of.partition)

    def write(self, blocks: Mapping[TopicPartition, Sequence[Record]]) -> list[Rejected]:
        """Inserts what is new in the blocks, durably, and returns the records that cannot be read.

        Raises:
            StoreUnavailable: some tables may have their rows and others not; calling again with the same
                blocks, in this process or the next, inserts what is missing.
        """
        rejected: list[Rejected] = []
        new: dict[str, list[Row]] = defaultdict(list)
        for of, block in blocks.items():
            tables = {table: _Rows() for table in _TABLES_OF[of.topic]}
            rejected += self._read(of, block, tables)
            for table, found in tables.items():
                if found.rows:
                    new[table] += self._filter(table, of.partition, found)
        for table, rows in new.items():
            if rows:
                self._insert(table, rows)
        return rejected

    def _read(self, of: TopicPartition, block: Iterable[Record], tables: _Tables) -> list[Rejected]:
        read = self._readers[of.topic]
        rejected = []
        for record in block:
            try:
                read(of, record, tables)
            except UnreadableRecord as error:
                rejected.append(_rejected(of, record, str(error)))
        return rejected

    def _filter(self, table: str, partition: int, found: _Rows) -> Sequence[Row]:
        row_filter = self._filters[table]
        if not row_filter.knows(partition):
            row_filter.begin(partition, self._highest(table, partition, min(found.stamps)))
        suspects = row_filter.suspects(partition, found.stamps)
        present = self._present(table, partition, suspects) if suspects else ()
        return row_filter.admit(partition, found.stamps, found.rows, present)

    def _highest(self, table: str, partition: int, floor: RowStamp) -> RowStamp | None:
        if table in _BY_POSITION:
            sql, parameters = HIGHEST_POSITION, {"partition": partition, "sequence": floor.sequence}
        else:
            sql = HIGHEST_STAMP
            parameters = {"partition": partition, "epoch": floor.epoch, "sequence": floor.sequence}
        row = self._log.query(sql.replace(_TABLE, table), parameters)[0]
        return RowStamp(row["highest_epoch"], row["highest_sequence"]) if row["found"] else None

    def _present(self, table: str, partition: int, suspects: Sequence[RowStamp]) -> set[RowStamp]:
        sequences = sorted({stamp.sequence for stamp in suspects})
        parameters: dict[str, object] = {"partition": partition, "sequences": sequences}
        sql = PRESENT_POSITIONS
        if table not in _BY_POSITION:
            sql = PRESENT_STAMPS
            parameters["epochs"] = sorted({stamp.epoch for stamp in suspects})
        rows = self._log.query(sql.replace(_TABLE, table), parameters)
        return {RowStamp(row["epoch"], row["sequence"]) for row in rows}

    def _insert(self, table: str, rows: Sequence[Row]) -> None:
        columns = log_rows.COLUMNS[table]
        try:
            self._log.insert(table, columns, rows)
        except ValueError:  # a number out of its column's range, from a foreign or broken writer
            self._log.insert(table, columns, log_rows.fitted(table, rows))

    def _read_event(self, of: TopicPartition, record: Record, tables: _Tables) -> None:
        event = wire.decode_event(_value(record))
        event_id = identify(event, self._cluster_id, of.topic, of.partition, record.offset)
        row = log_rows.event_row(event, event_id, of.partition, record.offset, record.timestamp_ms)
        tables[log_rows.EVENTS].add(RowStamp(0, record.offset), row)

    def _read_delivery(self, of: TopicPartition, record: Record, tables: _Tables) -> None:
        work = wire.decode_work(_value(record))
        if isinstance(work, Delivery):
            row = log_rows.delivery_row(work, of.partition, record.offset, record.timestamp_ms)
            tables[log_rows.DELIVERIES].add(RowStamp(0, record.offset), row)

    def _read_transition(self, of: TopicPartition, record: Record, tables: _Tables) -> None:
        key = wire.TRANSITION_KEY.decode(record.key or b"")
        changed, tried = log_rows.transition_rows(key, wire.TRANSITION.decode(_value(record)), of.partition)
        tables[log_rows.TRANSITIONS].add(key.stamp, changed)
        if tried is not None:
            tables[log_rows.ATTEMPTS].add(key.stamp, tried)

    def _read_dead_letter(self, of: TopicPartition, record: Record, tables: _Tables) -> None:
        key = wire.DEAD_LETTER_KEY.decode(record.key or b"")
        row = log_rows.dead_letter_row(key, wire.DEAD_LETTER.decode(_value(record)), of.partition)
        tables[log_rows.DEAD_LETTERS].add(key.stamp, row)


# Rows become visible in this order: attempts first, so that no state is shown without its attempt.
_TABLES_OF = {
    topics.EVENTS.name: (log_rows.EVENTS,),
    topics.DELIVERIES.name: (log_rows.DELIVERIES,),
    topics.TRANSITIONS.name: (log_rows.ATTEMPTS, log_rows.TRANSITIONS),
    topics.DEAD_LETTERS.name: (log_rows.DEAD_LETTERS,),
}


def _value(record: Record) -> bytes:
    if record.value is None:
        raise UnreadableRecord("the record has no value")
    return record.value


def _rejected(of: TopicPartition, record: Record, detail: str) -> Rejected:
    return Rejected(
        topic=of.topic,
        partition=of.partition,
        offset=record.offset,
        reason="unreadable",
        detail=detail,
        key=record.key,
        value=record.value,
        at_ms=record.timestamp_ms,
    )
