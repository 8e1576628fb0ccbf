"""Dumps a stopped process's data directory as records of a history: topics, shard stores, delivery log.

It runs in a process of its own, because ClickHouse in process takes one directory for ever. The directory is
opened as `up` opens it, so that what recovery would heal is healed before it is judged.

Run as `python -m deploy.chaos.dump --data DIR --out FILE`.
"""

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from dataflows.connectors.data_directory import shard_directory
from dataflows.connectors.delivery_log.port import DeliveryLog
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Log, Record, TopicPartition
from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.rocks_options import StoreMemory
from dataflows.flows.record import GROUP as RECORD_GROUP
from deploy.checker.history import (
    AttemptRecord,
    DeadLetterRecord,
    DeliveryRecord,
    End,
    LogRow,
    RejectedRecord,
    Source,
    StoreRow,
    TransitionRecord,
)
from deploy.checker.lines import encode_line
from deploy.process.embedded_parts import partition_counts
from deploy.process.load_settings import load_settings
from deploy.process.log_identity import LOG_DIRECTORY
from deploy.process.makers import open_delivery_log
from operators.shard.store_port import Family
from schemas import topics
from schemas.command import Command
from schemas.delivery import DeliveryState
from schemas.settings import Settings
from schemas.wire import records
from schemas.wire.store_rows import PENDING_ROW, SEEN_ROW

ROWS_AT_ONCE = 100_000
_READ_BLOCK = 5_000
_ATTEMPTS = (
    "SELECT partition, epoch, sequence, delivery_id, event_id, endpoint_id, number, started_at, status,"
    " after_crash FROM attempts WHERE (partition, epoch, sequence) > ({p:Int64}, {e:Int64}, {s:Int64})"
    " ORDER BY partition, epoch, sequence LIMIT {rows:UInt64} WITH TIES"
)

LogRecord = TransitionRecord | DeadLetterRecord | RejectedRecord | DeliveryRecord


def dump_topics(log: Log) -> Iterator[LogRecord]:
    """Yields what the topics hold, partition by partition."""
    readings: tuple[tuple[str, Callable[[int, Record], LogRecord | None]], ...] = (
        (topics.DELIVERIES.name, _delivery),
        (topics.TRANSITIONS.name, _transition),
        (topics.DEAD_LETTERS.name, _dead_letter),
        (topics.REJECTED.name, _rejected),
    )
    for topic, read in readings:
        for partition in range(log.partition_count(topic)):
            for record in _records(log, TopicPartition(topic, partition)):
                made = read(partition, record)
                if made is not None:
                    yield made


def dump_store(store: RocksStore, delivery_ids: list[bytes]) -> Iterator[StoreRow]:
    """Yields what a shard's store says of these deliveries, and of every one that lives in it."""
    rows = {}
    for _, raw in store.scan_all(Family.PENDING):
        row = PENDING_ROW.decode(raw)
        rows[row.delivery.id] = row
    unseen = delivery_ids
    for generation in store.generations():
        answers = store.get_seen(generation, unseen)
        for name, raw_seen in zip(unseen, answers, strict=True):
            if raw_seen is None:
                continue
            seen = SEEN_ROW.decode(raw_seen)
            delivery_id = name.decode()
            live = rows.pop(delivery_id, None)
            yield StoreRow(
                delivery_id,
                seen.endpoint_id,
                seen.state.value,
                seen.attempt_count if live is None else live.attempt_count,
                seen.next_attempt_at_ms if live is None else live.next_attempt_at_ms,
                live is not None,
            )
        unseen = [name for name, answer in zip(unseen, answers, strict=True) if answer is None]
    for delivery_id, row in rows.items():
        yield StoreRow(
            delivery_id,
            row.delivery.endpoint_id,
            DeliveryState.PENDING.value,
            row.attempt_count,
            row.next_attempt_at_ms,
            has_row=True,
        )


def dump_attempts(delivery_log: DeliveryLog) -> Iterator[LogRow]:
    """Yields the rows of `attempts`; not deduplicated by a merge that has not happened yet."""
    last = (-1, -1, -1)
    while True:
        rows = delivery_log.query(_ATTEMPTS, {"p": last[0], "e": last[1], "s": last[2], "rows": ROWS_AT_ONCE})
        if not rows:
            return
        for row in rows:
            yield LogRow(
                row["partition"],
                row["epoch"],
                row["sequence"],
                row["delivery_id"],
                row["event_id"],
                row["endpoint_id"],
                row["number"],
                row["started_at"],
                row["status"],
                row["after_crash"],
            )
        last = (rows[-1]["partition"], rows[-1]["epoch"], rows[-1]["sequence"])


class Dumped(Struct, frozen=True):
    """The line that says that a dump is complete.

    Attributes:
        unrecorded: records of the topics that the delivery log has not taken in yet: its group's lag.
    """

    unrecorded: int


def dump_data(settings: Settings, out: BinaryIO) -> Dumped:
    """Writes the three dumps, each with its end."""
    data = Path(settings.data)
    log = LocalLog.open(
        data / LOG_DIRECTORY,
        partitions=partition_counts(settings),
        clock_ms=lambda: time.time_ns() // 1_000_000,
    )
    ids: list[list[bytes]] = [[] for _ in range(settings.log.shards)]
    count = 0
    for record in dump_topics(log):
        out.write(encode_line(record))
        count += 1
        if isinstance(record, DeliveryRecord):
            ids[record.partition].append(record.delivery_id.encode())
    _end(out, Source.LOG, count)
    unrecorded = _lag(log)
    log.close()
    count, memory = 0, StoreMemory()
    for shard, names in enumerate(ids):
        store = RocksStore.open(
            shard_directory(data, shard), shard=shard, shard_count=len(ids), memory=memory
        )
        for row in dump_store(store, names):
            out.write(encode_line(row))
            count += 1
        store.close()
    _end(out, Source.STORE, count)
    delivery_log = open_delivery_log((data / "delivery_log").absolute())
    count = 0
    for attempt in dump_attempts(delivery_log):
        out.write(encode_line(attempt))
        count += 1
    _end(out, Source.DELIVERY_LOG, count)
    delivery_log.close()
    return Dumped(unrecorded)


def _lag(log: Log) -> int:
    lag = 0
    for topic in (topics.EVENTS, topics.DELIVERIES, topics.TRANSITIONS, topics.DEAD_LETTERS):
        for partition in range(log.partition_count(topic.name)):
            of = TopicPartition(topic.name, partition)
            committed = log.committed(RECORD_GROUP, of)
            lag += log.end(of) - max(log.start(of), 0 if committed is None else committed.offset)
    return lag


def _end(out: BinaryIO, source: Source, count: int) -> None:
    out.write(encode_line(End(source, count, time.monotonic_ns())))


def _records(log: Log, of: TopicPartition) -> Iterator[Record]:
    reader, end = log.reader({of: log.start(of)}), log.end(of)
    while reader.position(of) < end:
        yield from reader.poll(of, _READ_BLOCK)
    reader.close()


def _delivery(partition: int, record: Record) -> DeliveryRecord | None:
    work = records.decode_work(record.value or b"")
    if isinstance(work, Command):
        return None
    return DeliveryRecord(
        partition,
        record.offset,
        work.id,
        work.event_id,
        work.endpoint_id,
        work.tenant_id,
        hashlib.sha256(work.body).hexdigest(),
        work.replay_id,
    )


def _transition(partition: int, record: Record) -> TransitionRecord:
    key = records.TRANSITION_KEY.decode(record.key or b"")
    value = records.TRANSITION.decode(record.value or b"")
    attempt = value.attempt
    return TransitionRecord(
        partition,
        record.offset,
        key.delivery_id,
        value.event_id,
        key.endpoint_id,
        key.stamp.epoch,
        key.stamp.sequence,
        key.state.value,
        value.reason.value,
        key.attempt_count,
        key.schedule_step,
        key.next_attempt_at_ms,
        None
        if attempt is None
        else AttemptRecord(
            attempt.number,
            attempt.started_at_ms,
            attempt.finished_at_ms,
            attempt.status,
            attempt.error_code.value,
            attempt.after_crash,
            attempt.requests_sent,
        ),
        value.at_ms,
    )


def _dead_letter(partition: int, record: Record) -> DeadLetterRecord:
    key = records.DEAD_LETTER_KEY.decode(record.key or b"")
    value = records.DEAD_LETTER.decode(record.value or b"")
    return DeadLetterRecord(
        partition,
        record.offset,
        key.name,
        value.delivery.id,
        value.delivery.event_id,
        value.delivery.endpoint_id,
        value.reason.value,
        value.attempt_count,
        key.stamp.epoch,
        key.stamp.sequence,
    )


def _rejected(partition: int, record: Record) -> RejectedRecord:
    del partition
    value = records.REJECTED.decode(record.value or b"")
    return RejectedRecord(value.topic, value.partition, value.offset, value.reason, value.detail)


def main() -> None:
    """Parses the command line and dumps; the settings come from the environment, as for the victim."""
    parser = argparse.ArgumentParser(description="Dumps a stopped data directory as a history.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    settings = load_settings().model_copy(update={"data": str(given.data)})
    with given.out.open("wb") as out:
        dumped = dump_data(settings, out)
    sys.stdout.write(msgspec.json.encode(dumped).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
    os._exit(0)  # ClickHouse's threads need not be taken apart
