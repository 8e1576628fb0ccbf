"""From log records to rows, in the real store: faults between tables, repeats, records of foreign make."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count as numbers
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from dataflows.connectors.delivery_log import reads
from dataflows.connectors.delivery_log.chdb import ChdbLog
from dataflows.connectors.delivery_log.recording import RECORDED_TOPICS, Recording
from dataflows.connectors.log.port import Record, TopicPartition
from schemas.attempt import Attempt
from schemas.command import Command, CommandKind
from schemas.dead_letter import DeadLetter, DeadLetterKey
from schemas.delivery import Delivery, DeliveryState, EventPosition, Lane
from schemas.errors import StoreUnavailable
from schemas.event import Event
from schemas.ids import event_id_from_key, event_id_from_position
from schemas.outcome import ErrorCode
from schemas.transition import Reason, RowStamp, Transition, TransitionKey
from schemas.wire import records as wire
from tests.conformance.delivery_log_contract import NOW_MS, count

EVENTS = TopicPartition("events", 1)
DELIVERIES = TopicPartition("deliveries", 2)
TRANSITIONS = TopicPartition("transitions", 2)
DEAD_LETTERS = TopicPartition("dead_letters", 2)
TABLES = ("events", "deliveries", "transitions", "attempts", "dead_letters")
_databases = numbers()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("recording")
    keeper = ChdbLog(path)
    yield path
    keeper.close()


@pytest.fixture
def log(directory: Path) -> Iterator[ChdbLog]:
    opened = ChdbLog(directory, f"recording_{next(_databases)}")
    opened.migrate()
    yield opened
    opened.close()


class Faulty:
    """A delivery log that fails at chosen inserts, before or after they were done."""

    def __init__(self, log: ChdbLog) -> None:
        self._log = log
        self.fail_before: set[str] = set()
        self.fail_after: set[str] = set()
        self.inserts: list[str] = []
        self.queries = 0

    def migrate(self) -> list[str]:
        return self._log.migrate()

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if table in self.fail_before:
            raise StoreUnavailable("disk full")
        self._log.insert(table, columns, rows)
        self.inserts.append(table)
        if table in self.fail_after:
            raise StoreUnavailable("the answer was lost")

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        self.queries += 1
        return self._log.query(sql, parameters)

    def close(self) -> None:
        self._log.close()


@pytest.fixture
def faulty(log: ChdbLog) -> Faulty:
    return Faulty(log)


def event(offset: int, value: bytes | None = None, **fields: str) -> Record:
    if value is None:
        given: dict[str, Any] = {"tenant_id": "t1", "type": "order.created", "data": Raw(b'{"n":1}')} | fields
        value = wire.encode_event(Event(**given))
    return Record(offset, NOW_MS + offset, b"t1", value)


def delivery(number: int) -> Delivery:
    return Delivery(
        id=f"dlv_{number}",
        event_id="evt_1",
        endpoint_id="ep_1",
        tenant_id="t1",
        event_type="order.created",
        replay_id="",
        body=b"{}\xff",
        digest=b"12345678",
        recorded_at_ms=NOW_MS,
        event_position=EventPosition(1, 0),
        matched_at=0,
    )


def work(offset: int, item: Delivery | Command) -> Record:
    value = wire.DELIVERY.encode(item) if isinstance(item, Delivery) else wire.COMMAND.encode(item)
    return Record(offset, NOW_MS + offset, b"key", value)


ATTEMPT = Attempt(
    number=1,
    started_at_ms=NOW_MS,
    finished_at_ms=NOW_MS + 30,
    url="https://receiver.example/hook",
    status=200,
    error_code=ErrorCode.NONE,
    error_detail="",
    headers=(("server", "nginx"),),
    body=b"\xff\n\n",
    is_body_truncated=False,
    queued_us=1,
    connect_us=2,
    first_byte_us=3,
    total_us=4,
    peer="192.0.2.1:443",
    is_reused_connection=True,
    requests_sent=1,
    after_crash=False,
)


def transition(offset: int, stamp: RowStamp, attempt: Attempt | None = ATTEMPT) -> Record:
    key = TransitionKey(
        delivery_id=f"dlv_{stamp.epoch}_{stamp.sequence}",
        stamp=stamp,
        endpoint_id="ep_1",
        lane=Lane.FRESH,
        offset=0,
        state=DeliveryState.DELIVERED,
        attempt_count=1,
        schedule_step=1,
        next_attempt_at_ms=0,
        digest=b"12345678",
        recorded_at_ms=NOW_MS,
    )
    value = Transition("evt_1", "t1", "order.created", "", Reason.DELIVERED, NOW_MS + 31, attempt)
    return Record(offset, NOW_MS, wire.TRANSITION_KEY.encode(key), wire.TRANSITION.encode(value))


def dead_letter(offset: int, stamp: RowStamp) -> Record:
    key = DeadLetterKey("dlv_9", stamp)
    value = DeadLetter(delivery(9), 4, Reason.PERMANENT_STATUS, NOW_MS, 1, 404, ErrorCode.NONE)
    return Record(offset, NOW_MS, wire.DEAD_LETTER_KEY.encode(key), wire.DEAD_LETTER.encode(value))


def stamps(log: ChdbLog, table: str) -> list[tuple[int, int]]:
    rows = log.query(f"SELECT epoch, sequence FROM {table} ORDER BY epoch, sequence")
    return [(row["epoch"], row["sequence"]) for row in rows]


def offsets(log: ChdbLog, table: str) -> list[int]:
    return [row["offset"] for row in log.query(f"SELECT offset FROM {table} ORDER BY offset")]


BLOCKS: Mapping[TopicPartition, Sequence[Record]] = {
    EVENTS: [event(0, id="evt_1"), event(1, idempotency_key="k"), event(2)],
    DELIVERIES: [
        work(0, delivery(1)),
        work(1, Command(CommandKind.CANCEL, "dlv_1", "ep_1", "alice")),
        work(2, delivery(2)),
    ],
    TRANSITIONS: [
        transition(0, RowStamp(5, 1)),
        transition(1, RowStamp(5, 2), None),
        transition(2, RowStamp(5, 4)),
    ],
    DEAD_LETTERS: [dead_letter(0, RowStamp(5, 3))],
}


def test_every_record_becomes_its_rows_in_one_insert_a_table(log: ChdbLog, faulty: Faulty) -> None:
    assert {of.topic for of in BLOCKS} == {topic.name for topic in RECORDED_TOPICS}
    assert Recording(faulty, "cluster").write(BLOCKS) == []
    assert sorted(faulty.inserts) == sorted(TABLES)
    assert {table: count(log, table) for table in TABLES} == {
        "events": 3,
        "deliveries": 2,
        "transitions": 3,
        "attempts": 2,
        "dead_letters": 1,
    }
    names = {row["event_id"] for row in log.query("SELECT event_id FROM events")}
    assert names == {"evt_1", event_id_from_key("t1", "k"), event_id_from_position("cluster", "events", 1, 2)}
    (attempt,) = reads.attempts_of(log, "t1", "dlv_5_1")
    assert (attempt.id, attempt.body, attempt.headers) == ("dlv_5_1.1", b"\xff\n\n", (("server", "nginx"),))
    shown = reads.delivery(log, "t1", "dlv_5_4")
    assert shown is not None
    assert (shown.state, shown.shard, shown.next_attempt_at_ms) == ("delivered", 2, None)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("fault", ["fail_before", "fail_after"])
@pytest.mark.parametrize("is_same_process", [True, False])
def test_a_fault_between_the_tables_loses_and_repeats_nothing(
    log: ChdbLog,
    faulty: Faulty,
    table: str,
    fault: str,
    is_same_process: bool,  # noqa: FBT001
) -> None:
    recording = Recording(faulty, "cluster")
    getattr(faulty, fault).add(table)
    with pytest.raises(StoreUnavailable):
        recording.write(BLOCKS)
    getattr(faulty, fault).clear()
    if not is_same_process:
        recording = Recording(faulty, "cluster")
    # The next try sees more records than the first, in blocks of another cut.
    more = dict(BLOCKS) | {TRANSITIONS: [*BLOCKS[TRANSITIONS], transition(3, RowStamp(5, 6))]}
    recording.write({of: block[:1] for of, block in more.items()})
    recording.write({of: block[1:] for of, block in more.items() if len(block) > 1})
    assert offsets(log, "events") == [0, 1, 2]
    assert offsets(log, "deliveries") == [0, 2]
    assert stamps(log, "transitions") == [(5, 1), (5, 2), (5, 4), (5, 6)]
    assert stamps(log, "attempts") == [(5, 1), (5, 4), (5, 6)]
    assert stamps(log, "dead_letters") == [(5, 3)]


def test_rows_published_again_under_their_old_stamps_are_dropped(log: ChdbLog, faulty: Faulty) -> None:
    recording = Recording(faulty, "cluster")
    recording.write({TRANSITIONS: [transition(i, RowStamp(5, i)) for i in range(4)]})
    again = [transition(4 + i, RowStamp(5, i)) for i in range(2, 6)] + [transition(9, RowStamp(6, 6))]
    recording.write({TRANSITIONS: again})
    recording.start({TRANSITIONS: 4})  # and once more after a rebalance
    recording.write({TRANSITIONS: [*again, transition(10, RowStamp(6, 7))]})
    assert (
        stamps(log, "transitions") == stamps(log, "attempts") == [(5, i) for i in range(6)] + [(6, 6), (6, 7)]
    )


def test_the_steady_state_asks_the_store_nothing(faulty: Faulty) -> None:
    recording = Recording(faulty, "cluster")
    recording.write({TRANSITIONS: [transition(0, RowStamp(5, 0))]})
    asked = faulty.queries
    for i in range(1, 5):
        recording.write({TRANSITIONS: [transition(i, RowStamp(5, i))], DEAD_LETTERS: []})
    assert faulty.queries == asked


def test_what_cannot_be_read_comes_back_with_its_position_and_spoils_nothing(log: ChdbLog) -> None:
    bad_events = [b"", b"{", b'{"tenant_id":"t1"}', b'{"tenant_id":"t1","type":"a","data":1,"v":9}', b"\xff"]
    blocks = {
        EVENTS: [
            *[event(i, value) for i, value in enumerate(bad_events)],
            event(7),
            Record(8, NOW_MS, None, None),
        ],
        DELIVERIES: [Record(0, NOW_MS, b"k", b"D\x09"), work(1, delivery(1))],
        TRANSITIONS: [transition(0, RowStamp(1, 1))._replace(key=None), transition(1, RowStamp(1, 2))],
        DEAD_LETTERS: [
            dead_letter(0, RowStamp(1, 3))._replace(value=b"X\x01\xc1"),
            dead_letter(1, RowStamp(1, 4)),
        ],
    }
    rejected = Recording(log, "cluster").write(blocks)
    assert [(r.topic, r.partition, r.offset) for r in rejected] == [
        *[("events", 1, offset) for offset in (0, 1, 2, 3, 4, 8)],
        ("deliveries", 2, 0),
        ("transitions", 2, 0),
        ("dead_letters", 2, 0),
    ]
    assert all(r.reason == "unreadable" and r.detail for r in rejected)
    assert rejected[1].value == b"{"
    assert [count(log, table) for table in TABLES] == [1, 1, 1, 1, 1]


def test_a_number_that_its_column_cannot_hold_does_not_stop_the_log(log: ChdbLog) -> None:
    wild = replace(ATTEMPT, queued_us=1 << 40, total_us=-1, requests_sent=1 << 20, number=1 << 33)
    records = [transition(0, RowStamp(1, 1), wild), transition(1, RowStamp(1, 2))]
    assert Recording(log, "cluster").write({TRANSITIONS: records}) == []
    rows = log.query("SELECT queued_us, total_us, requests_sent, number FROM attempts ORDER BY sequence")
    assert [tuple(row.values()) for row in rows] == [
        ((1 << 32) - 1, 0, (1 << 16) - 1, (1 << 32) - 1),
        (1, 4, 1, 1),
    ]
