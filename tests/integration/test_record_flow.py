"""The record flow over a log in memory and a real embedded ClickHouse: every row once, whatever dies."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count as numbers
from typing import Any

import pytest
from msgspec import Raw

from dataflows.connectors.delivery_log.chdb import ChdbLog
from dataflows.connectors.log.port import Entry, TopicPartition
from dataflows.engine.flow_runner import FlowThread
from dataflows.engine.stop import StopSignal
from dataflows.flows.record import GROUP, Record
from schemas import topics
from schemas.delivery import Delivery, EventPosition
from schemas.errors import StoreUnavailable
from schemas.event import Event
from schemas.ids import delivery_id
from schemas.wire import records
from tests.simulation.memory_log import START_MS, Died, MemoryLog, MortalLog

COUNTS = {"events": 2, "deliveries": 2, "transitions": 2, "dead_letters": 2, "rejected": 1}
_databases = numbers()


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChdbLog]:
    """Holds the one directory that this process may have open."""
    opened = ChdbLog(tmp_path_factory.mktemp("delivery_log"))
    yield opened
    opened.close()


@pytest.fixture
def delivery_log(keeper: ChdbLog) -> Iterator[ChdbLog]:
    opened = ChdbLog(keeper._directory, f"record_flow_{next(_databases)}")
    opened.migrate()
    yield opened
    opened.close()


def make_log() -> MemoryLog:
    log = MemoryLog(COUNTS)
    log.now_ms = int(time.time() * 1_000)  # the tables forget rows of long ago at once
    return log


class FailingLog:
    """A delivery log whose inserts fail while the test says so, before or after they took effect."""

    def __init__(self, inner: ChdbLog) -> None:
        self.inner = inner
        self.is_away = False
        self.chance: random.Random | None = None
        self.tries = 0

    def migrate(self) -> list[str]:
        return self.inner.migrate()

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.tries += 1
        roll = 1.0 if self.chance is None else self.chance.random()
        if self.is_away or roll < 0.2:
            raise StoreUnavailable("away")
        self.inner.insert(table, columns, rows)
        if roll < 0.4:
            raise StoreUnavailable("the answer was lost")

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        return self.inner.query(sql, parameters)

    def close(self) -> None:
        pass


class Running:
    """A record process under test."""

    def __init__(self, log: MemoryLog, delivery_log: Any, stop_deadline_ms: int = 5_000) -> None:  # noqa: ANN401
        self.stop = StopSignal()
        self.record = Record(
            log, delivery_log, self.stop, rows_max=50, interval_ms=5, stop_deadline_ms=stop_deadline_ms
        )
        self.deaths: list[BaseException] = []
        self.thread = FlowThread(
            "record",
            self.record.build,
            epoch_interval_s=0.1,
            on_death=lambda _, error: self.deaths.append(error),
        )
        self.thread.start()

    def end(self) -> None:
        self.stop.request()
        assert self.thread.join(20), "the flow did not end"


def make_event(number: int) -> Event:
    return Event(tenant_id="t1", type="order.created", data=Raw(b'{"n":%d}' % number), id=f"evt_{number}")


def make_delivery(number: int) -> Delivery:
    event_id, endpoint_id = f"evt_{number}", "ep_1"
    at = EventPosition(0, number)
    name = delivery_id(event_id, endpoint_id)
    return Delivery(
        name, event_id, endpoint_id, "t1", "order.created", "", b"{}", b"12345678", START_MS, at, 0
    )


def fill(log: MemoryLog, count: int) -> None:
    for number in range(count):
        event, delivery = make_event(number), make_delivery(number)
        at = TopicPartition(topics.EVENTS.name, number % 2)
        log.append_and_wait(at, [Entry(b"t1", records.encode_event(event))])
        at = TopicPartition(topics.DELIVERIES.name, number % 2)
        log.append_and_wait(at, [Entry(delivery.id.encode(), records.DELIVERY.encode(delivery))])


def rows_of(delivery_log: ChdbLog, table: str, column: str) -> list[str]:
    """The column of every row that was ever inserted, repeats included."""
    return [
        row["found"] for row in delivery_log.query(f"SELECT {column} AS found FROM {table} ORDER BY found")
    ]


def is_recorded(log: MemoryLog) -> bool:
    for topic in (topics.EVENTS.name, topics.DELIVERIES.name, topics.TRANSITIONS.name):
        for number in range(2):
            of = TopicPartition(topic, number)
            committed = log.committed(GROUP, of)
            if log.end(of) > 0 and (committed is None or committed.offset < log.end(of)):
                return False
    return True


def test_every_record_becomes_one_row_and_then_its_offset_is_committed(delivery_log: ChdbLog) -> None:
    log = make_log()
    fill(log, 120)
    process = Running(log, delivery_log)
    log.wait_until(lambda: is_recorded(log))
    process.end()
    assert process.deaths == []
    assert process.record.is_caught_up()
    assert rows_of(delivery_log, "events", "event_id") == sorted(f"evt_{n}" for n in range(120))
    assert rows_of(delivery_log, "deliveries", "delivery_id") == sorted(
        make_delivery(n).id for n in range(120)
    )
    assert process.record.counts.rows == 240


@pytest.mark.parametrize("seed", range(2))
def test_failures_and_deaths_lose_nothing_and_repeat_nothing(delivery_log: ChdbLog, seed: int) -> None:
    chance = random.Random(seed)
    log = make_log()
    fill(log, 400)
    store = FailingLog(delivery_log)
    store.chance = chance
    for _ in range(3):
        process = Running(MortalLog(log, calls_left=chance.randrange(3, 12)), store)
        log.wait_until(lambda process=process: is_recorded(log) or process.deaths != [])  # type: ignore[misc]
        process.end()
        assert all(isinstance(death, Died) for death in process.deaths), f"seed {seed}: {process.deaths}"
    process = Running(log, store)
    log.wait_until(lambda: is_recorded(log))
    process.end()
    assert process.deaths == []
    assert rows_of(delivery_log, "events", "event_id") == sorted(f"evt_{n}" for n in range(400)), (
        f"seed {seed}"
    )
    assert len(rows_of(delivery_log, "deliveries", "delivery_id")) == 400, f"seed {seed}"


def test_while_the_store_is_away_nothing_is_lost_and_a_stop_keeps_its_deadline(delivery_log: ChdbLog) -> None:
    log = make_log()
    store = FailingLog(delivery_log)
    store.is_away = True
    fill(log, 20)
    process = Running(log, store, stop_deadline_ms=200)
    log.wait_until(lambda: store.tries > 1)
    process.end()
    assert process.deaths == []
    assert not process.record.is_caught_up()
    assert log.committed(GROUP, TopicPartition(topics.EVENTS.name, 0)) is None
    store.is_away = False
    process = Running(log, store)
    log.wait_until(lambda: is_recorded(log))
    process.end()
    assert len(rows_of(delivery_log, "events", "event_id")) == 20


def test_an_unreadable_transition_is_rejected_with_its_position(delivery_log: ChdbLog) -> None:
    log = make_log()
    log.append_and_wait(TopicPartition(topics.TRANSITIONS.name, 1), [Entry(b"junk", b"junk")])
    log.append_and_wait(TopicPartition(topics.EVENTS.name, 1), [Entry(None, b"junk")])
    process = Running(log, delivery_log)
    log.wait_until(lambda: is_recorded(log))
    process.end()
    assert process.deaths == []
    found = [
        records.REJECTED.decode(r.value or b"") for r in log.records(TopicPartition(topics.REJECTED.name, 0))
    ]
    assert [(one.topic, one.partition, one.offset, one.key) for one in found] == [
        ("transitions", 1, 0, b"junk")
    ]


def test_a_death_of_the_writer_ends_the_flow(delivery_log: ChdbLog) -> None:
    class Broken(FailingLog):
        def insert(self, *_: object) -> None:
            raise ZeroDivisionError

    log = make_log()
    fill(log, 1)
    process = Running(log, Broken(delivery_log))
    assert process.thread.join(20)
    assert [type(death) for death in process.deaths] == [ZeroDivisionError]
