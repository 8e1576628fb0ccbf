"""What every `DeliveryLog` promises: one class of facts, for which each implementation gives a `log`.

It uses only the port and the product's own tables, which have a column of every type we use. A server may
serve other clients at the same time, so nothing here counts parts, merges or milliseconds.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataflows.connectors.delivery_log import reads
from dataflows.connectors.delivery_log.port import DeliveryLog
from operators.log_rows import COLUMNS

# By the real clock, because the tables forget what is older than 30 or 90 days.
NOW_MS = int(time.time()) * 1_000 - 3_599_877
ODD_TEXTS = (
    "",
    " ",
    "it's",
    '"',
    "\\",
    "\\\\'",
    "\\N",
    "\\0",
    "\\x41",
    "NULL",
    "a\tb",
    "a\nb",
    "\n\n",
    "\r\n",
    "a\0b",
    "\0",
    "\x08\x0c\x1b\x7f",
    "é€\u2028🎉",
    "{name:String}",
    "'); DROP TABLE events; --",
    "' OR 1 = 1 --",
    "x" * 70_000,
)
ODD_BYTES = (
    b"",
    bytes(range(256)),
    b"\n\n",
    b"\n\n;\n\nINSERT INTO events VALUES",
    b"\xff\xfe\xed\xa0\x80\xc3",
    b"\0" * 1_000,
    b"\\N",
    b"x" * 127,
    b"x" * 128,
    b"\x80" * 8_191,
    b"\x80" * 8_192,
    b"b" * 300_000,
)

DEFAULTS: dict[str, dict[str, Any]] = {
    "events": {
        "tenant_id": "t1",
        "event_id": "evt_1",
        "type": "order.created",
        "recorded_at": NOW_MS,
        "occurred_at": NOW_MS - 1,
        "idempotency_key": "",
        "data": b"{}",
        "partition": 0,
        "offset": 0,
    },
    "deliveries": {
        "tenant_id": "t1",
        "delivery_id": "dlv_1",
        "event_id": "evt_1",
        "endpoint_id": "ep_1",
        "event_type": "order.created",
        "replay_id": "",
        "created_at": NOW_MS,
        "partition": 0,
        "offset": 0,
    },
    "transitions": {
        "tenant_id": "t1",
        "delivery_id": "dlv_1",
        "event_id": "evt_1",
        "endpoint_id": "ep_1",
        "event_type": "order.created",
        "state": "retrying",
        "reason": "attempt_failed",
        "attempt_count": 1,
        "schedule_step": 1,
        "next_attempt_at": NOW_MS + 300_000,
        "at": NOW_MS,
        "actor": "",
        "partition": 0,
        "epoch": 1,
        "sequence": 1,
    },
    "attempts": {
        "tenant_id": "t1",
        "delivery_id": "dlv_1",
        "event_id": "evt_1",
        "endpoint_id": "ep_1",
        "event_type": "order.created",
        "state": "retrying",
        "partition": 0,
        "epoch": 1,
        "sequence": 1,
        "number": 1,
        "started_at": NOW_MS,
        "finished_at": NOW_MS + 30,
        "url": "https://receiver.example/hook",
        "status": 500,
        "error_code": "",
        "error_detail": "",
        "headers": [["content-type", "text/plain"]],
        "body": b"no",
        "is_body_truncated": False,
        "queued_us": 1,
        "connect_us": 2,
        "first_byte_us": 3,
        "total_us": 4,
        "peer": "192.0.2.1:443",
        "is_reused_connection": True,
        "requests_sent": 1,
        "after_crash": False,
        "hops": "[]",
    },
    "dead_letters": {
        "tenant_id": "t1",
        "delivery_id": "dlv_1",
        "name": "dlv_1",
        "event_id": "evt_1",
        "endpoint_id": "ep_1",
        "event_type": "order.created",
        "replay_id": "",
        "reason": "permanent_status",
        "at": NOW_MS,
        "attempt_count": 1,
        "last_status": 404,
        "last_error_code": "",
        "body": b"{}",
        "partition": 0,
        "epoch": 1,
        "sequence": 2,
    },
}
BYTES = {"data", "body"}


def put(log: DeliveryLog, table: str, *rows: Mapping[str, Any]) -> None:
    """Inserts rows that name only what is not the default."""
    columns = COLUMNS[table]
    log.insert(table, columns, [[{**DEFAULTS[table], **row}[name] for name in columns] for row in rows])


def get(log: DeliveryLog, table: str, order: str) -> list[dict[str, Any]]:
    """Returns every column of every row; columns of bytes as bytes."""
    names = ", ".join(f"hex({name}) AS {name}_hex" if name in BYTES else name for name in COLUMNS[table])
    rows = log.query(f"SELECT {names} FROM {table} ORDER BY {order}")
    return [
        {name: bytes.fromhex(row[f"{name}_hex"]) if name in BYTES else row[name] for name in COLUMNS[table]}
        for row in rows
    ]


def count(log: DeliveryLog, table: str) -> int:
    return int(log.query(f"SELECT count() AS n FROM {table}")[0]["n"])


class DeliveryLogContract:
    """The facts. A subclass gives the fixture `log`: open, migrated and empty."""

    def test_the_columns_we_write_are_columns_of_the_tables(self, log: DeliveryLog) -> None:
        for table, columns in COLUMNS.items():
            assert set(DEFAULTS[table]) == set(columns)
            assert log.query(f"SELECT {', '.join(columns)} FROM {table}") == []

    def test_a_row_comes_back_as_it_was_given(self, log: DeliveryLog) -> None:
        for table in COLUMNS:
            put(log, table, {})
            assert get(log, table, "tenant_id") == [DEFAULTS[table]]

    def test_the_extremes_of_every_column_come_back(self, log: DeliveryLog) -> None:
        rows: list[dict[str, Any]] = [
            {
                "epoch": 0,
                "sequence": 0,
                "number": 0,
                "finished_at": 0,
                "status": None,
                "headers": [],
                "queued_us": 0,
                "requests_sent": 0,
                "body": b"",
                "url": "",
            },
            {
                "epoch": (1 << 64) - 1,
                "sequence": (1 << 63) + 1,
                "number": (1 << 32) - 1,
                "finished_at": 4_000_000_000_999,
                "status": (1 << 16) - 1,
                "headers": [["set-cookie", "a"], ["set-cookie", "b"], ["", ""]],
                "queued_us": (1 << 32) - 1,
                "requests_sent": (1 << 16) - 1,
                "after_crash": True,
                "is_reused_connection": False,
            },
        ]
        put(log, "attempts", *rows)
        assert get(log, "attempts", "epoch") == [DEFAULTS["attempts"] | row for row in rows]

    @pytest.mark.parametrize("texts", [ODD_TEXTS, tuple(f"{i}-é" for i in range(300))])
    def test_any_text_comes_back(self, log: DeliveryLog, texts: Sequence[str]) -> None:
        put(
            log,
            "attempts",
            *[
                {"sequence": i, "number": i, "error_detail": text, "url": text}
                for i, text in enumerate(texts)
            ],
        )
        rows = get(log, "attempts", "sequence")
        assert [row["error_detail"] for row in rows] == list(texts)
        assert [row["url"] for row in rows] == list(texts)

    def test_any_bytes_come_back(self, log: DeliveryLog) -> None:
        bodies = [*ODD_BYTES, *[bytes((i,)) for i in range(256)], *[b"\n" * i for i in range(40)]]
        put(log, "events", *[{"event_id": f"evt_{i:04}", "data": body} for i, body in enumerate(bodies)])
        assert [row["data"] for row in get(log, "events", "event_id")] == bodies

    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(drawn=st.data())
    def test_any_block_comes_back(self, log: DeliveryLog, drawn: st.DataObject) -> None:
        before = count(log, "attempts")
        row = st.fixed_dictionaries(
            {
                "body": st.binary(max_size=300),
                "error_detail": st.text(st.characters(codec="utf-8"), max_size=200),
                "peer": st.text(st.characters(codec="utf-8"), max_size=3),
                "status": st.none() | st.integers(0, (1 << 16) - 1),
                "headers": st.lists(st.lists(st.text("aé\n'\\\t\0", max_size=4), min_size=2, max_size=2)),
                "after_crash": st.booleans(),
                "total_us": st.integers(0, (1 << 32) - 1),
            }
        )
        drawn_rows = drawn.draw(st.lists(row, min_size=1, max_size=30))
        rows = [
            values | {"sequence": before + i, "number": before + i} for i, values in enumerate(drawn_rows)
        ]
        put(log, "attempts", *rows)
        assert get(log, "attempts", "sequence")[before:] == [DEFAULTS["attempts"] | row for row in rows]

    def test_an_empty_block_is_nothing(self, log: DeliveryLog) -> None:
        log.insert("events", COLUMNS["events"], [])
        assert count(log, "events") == 0

    def test_columns_that_are_not_given_take_their_default(self, log: DeliveryLog) -> None:
        # With a time: a row of 1970 is past its TTL, and ClickHouse may drop it at once.
        log.insert("events", ("event_id", "tenant_id", "recorded_at"), [("evt_1", "t9", NOW_MS)])
        (row,) = get(log, "events", "event_id")
        assert (row["tenant_id"], row["data"], row["offset"]) == ("t9", b"", 0)

    def test_a_value_that_does_not_fit_is_refused_and_nothing_is_inserted(self, log: DeliveryLog) -> None:
        cases: list[tuple[str, object]] = [
            ("number", 1 << 32),
            ("number", -1),
            ("number", None),
            ("sequence", 1 << 64),
            ("status", "200"),
            ("url", 7),
            ("headers", [["only a name"]]),
        ]
        for column, value in cases:
            with pytest.raises(ValueError, match=column):
                put(log, "attempts", {"number": 5}, {column: value})
        assert count(log, "attempts") == 0
        put(log, "attempts", {})
        assert count(log, "attempts") == 1

    def test_an_unknown_table_or_column_is_a_programmers_error(self, log: DeliveryLog) -> None:
        for table, columns in (("nothing", ("a",)), ("events", ("nothing",)), ("ev`ents", ("data",))):
            with pytest.raises(ValueError, match=r"noth|name"):
                log.insert(table, columns, [["x"]])
        for sql in (
            "SELECT nothing FROM events",
            "SELECT 1 FROM nothing",
            "SELEKT 1",
            "SELECT no_such_function(1)",
        ):
            with pytest.raises(ValueError, match="Code"):
                log.query(sql)

    def test_a_query_cannot_write(self, log: DeliveryLog) -> None:
        put(log, "events", {})
        for sql in ("DROP TABLE events", "TRUNCATE TABLE events", "INSERT INTO events SELECT * FROM events"):
            with pytest.raises(ValueError, match="Code"):
                log.query(sql)
        assert count(log, "events") == 1

    def test_a_parameter_is_a_value_and_never_sql(self, log: DeliveryLog) -> None:
        put(log, "events", *[{"event_id": text, "idempotency_key": text} for text in ODD_TEXTS])
        for text in ODD_TEXTS:
            found = log.query(
                "SELECT event_id, {key:String} AS text FROM events WHERE idempotency_key = {key:String}",
                {"key": text},
            )
            assert found == [{"event_id": text, "text": text}]
            texts = [text, "x", text]
            assert log.query("SELECT {texts:Array(String)} AS texts", {"texts": texts}) == [{"texts": texts}]

    def test_a_parameter_of_every_type_comes_back(self, log: DeliveryLog) -> None:
        cases: list[tuple[str, object]] = [
            ("UInt8", 255),
            ("UInt64", (1 << 64) - 1),
            ("Int64", -(1 << 63)),
            ("Int8", -128),
            ("Bool", True),
            ("Bool", False),
            ("DateTime64(3)", 5),
            ("DateTime64(3)", NOW_MS),
            ("DateTime64(3, 'Asia/Tokyo')", NOW_MS),
            ("Nullable(String)", None),
            ("Nullable(String)", "\\N"),
            ("Array(UInt64)", [0, (1 << 64) - 1]),
            ("Array(UInt64)", []),
            ("Array(String)", []),
        ]
        for type_name, value in cases:
            assert log.query(f"SELECT {{value:{type_name}}} AS value", {"value": value}) == [{"value": value}]

    def test_a_parameter_that_does_not_fit_its_type_is_refused(self, log: DeliveryLog) -> None:
        cases: list[tuple[str, object]] = [
            ("UInt8", 256),
            ("UInt8", -1),
            ("UInt32", "1"),
            ("UInt32", True),
            ("String", b"x"),
            ("String", None),
            ("Bool", 1),
            ("Array(String)", "abc"),
            ("Array(String)", [1]),
            ("DateTime64(3)", -1),
        ]
        for type_name, value in cases:
            with pytest.raises(ValueError, match="parameter value"):
                log.query(f"SELECT {{value:{type_name}}} AS value", {"value": value})

    def test_a_missing_or_superfluous_parameter_is_refused(self, log: DeliveryLog) -> None:
        for sql, parameters in (("SELECT {a:String}", {}), ("SELECT 1", {"a": "x"})):
            with pytest.raises(ValueError, match="differ"):
                log.query(sql, parameters)

    def test_times_are_utc_milliseconds_whatever_zone_is_asked(self, log: DeliveryLog) -> None:
        put(log, "transitions", {"at": NOW_MS, "next_attempt_at": None})
        assert log.query(
            "SELECT at, next_attempt_at, toTimeZone(at, 'America/New_York') AS elsewhere, [at] AS many, "
            "toStartOfHour(at) AS hour, toUnixTimestamp64Milli(at) AS number FROM transitions "
            "WHERE at = {at:DateTime64(3)} AND at = {there:DateTime64(3, 'Asia/Tokyo')}",
            {"at": NOW_MS, "there": NOW_MS},
        ) == [
            {
                "at": NOW_MS,
                "next_attempt_at": None,
                "elsewhere": NOW_MS,
                "many": [NOW_MS],
                "hour": NOW_MS - NOW_MS % 3_600_000,
                "number": NOW_MS,
            }
        ]

    def test_rows_come_in_the_order_that_was_asked(self, log: DeliveryLog) -> None:
        put(log, "transitions", *[{"sequence": i * 7 % 101} for i in range(101)])
        rows = log.query("SELECT sequence FROM transitions ORDER BY sequence DESC LIMIT 5")
        assert [row["sequence"] for row in rows] == [100, 99, 98, 97, 96]

    def test_a_large_block_over_several_months_is_there_when_insert_returns(self, log: DeliveryLog) -> None:
        month_ms = 31 * 86_400_000
        columns = COLUMNS["transitions"]
        rows = [
            [*(DEFAULTS["transitions"] | {"sequence": i, "at": NOW_MS - i % 3 * month_ms}).values()]
            for i in range(50_000)
        ]
        log.insert("transitions", columns, rows)
        assert log.query(
            "SELECT count() AS n, uniqExact(sequence) AS u, max(sequence) AS m FROM transitions"
        ) == [{"n": 50_000, "u": 50_000, "m": 49_999}]

    def test_readers_see_whole_blocks_while_others_insert(self, log: DeliveryLog) -> None:
        blocks, size = 12, 50
        seen: list[int] = []
        is_done = threading.Event()

        def read() -> None:
            while not is_done.is_set():
                seen.append(count(log, "transitions"))

        def write(writer: int) -> None:
            for block in range(blocks):
                put(
                    log,
                    "transitions",
                    *[{"epoch": writer, "sequence": block * size + i} for i in range(size)],
                )

        readers = [threading.Thread(target=read) for _ in range(3)]
        writers = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
        for thread in readers + writers:
            thread.start()
        for thread in writers:
            thread.join()
        is_done.set()
        for thread in readers:
            thread.join()
        assert count(log, "transitions") == 2 * blocks * size
        assert seen
        assert not [number for number in seen if number % size]

    def test_migrating_again_changes_nothing(self, log: DeliveryLog) -> None:
        put(log, "events", {})
        assert log.migrate() == []
        assert get(log, "events", "event_id") == [DEFAULTS["events"]]

    # What the API reads, over the same statements for every implementation.

    def test_an_event_is_read_by_its_owner_and_by_the_admin_only(self, log: DeliveryLog) -> None:
        put(
            log,
            "events",
            {"data": b"\xff\n\n", "idempotency_key": "k"},
            {"tenant_id": "t2", "event_id": "evt_2"},
        )
        mine = reads.event(log, "t1", "evt_1")
        assert mine is not None
        assert (mine.data, mine.idempotency_key, mine.recorded_at_ms) == (b"\xff\n\n", "k", NOW_MS)
        assert reads.event(log, None, "evt_1") == mine
        assert reads.event(log, "t1", "evt_2") is None
        assert reads.event(log, None, "evt_3") is None

    def test_of_two_records_of_one_event_the_first_counts(self, log: DeliveryLog) -> None:
        put(log, "events", {"data": b"second", "recorded_at": NOW_MS + 5, "offset": 2})
        put(log, "events", {"data": b"first", "offset": 1})
        put(log, "events", {"data": b"third", "recorded_at": NOW_MS + 9, "offset": 3})
        found = reads.event(log, "t1", "evt_1")
        assert found is not None
        assert found.data == b"first"
        kept = log.query("SELECT hex(data) AS data_hex FROM events FINAL")
        assert [bytes.fromhex(row["data_hex"]) for row in kept] == [b"first"]

    def test_a_delivery_without_transition_is_pending(self, log: DeliveryLog) -> None:
        put(log, "deliveries", {"partition": 6, "replay_id": "rpl_1"})
        found = reads.delivery(log, "t1", "dlv_1")
        assert found is not None
        assert (found.state, found.reason, found.attempt_count, found.next_attempt_at_ms) == (
            "pending",
            "",
            0,
            None,
        )
        assert (found.shard, found.replay_id, found.created_at_ms, found.updated_at_ms) == (
            6,
            "rpl_1",
            NOW_MS,
            NOW_MS,
        )
        assert reads.delivery(log, "t2", "dlv_1") is None
        assert reads.delivery(log, None, "dlv_1") == found

    def test_the_state_is_the_last_transition_by_epoch_and_sequence(self, log: DeliveryLog) -> None:
        put(log, "deliveries", {})
        put(log, "transitions", {"epoch": 2, "sequence": 1, "at": NOW_MS - 50, "attempt_count": 2})
        put(log, "transitions", {"epoch": 1, "sequence": 9, "attempt_count": 1})
        found = reads.delivery(log, "t1", "dlv_1")
        assert found is not None
        assert (found.state, found.attempt_count, found.next_attempt_at_ms) == (
            "retrying",
            2,
            NOW_MS + 300_000,
        )
        done: dict[str, Any] = {
            "state": "delivered",
            "reason": "delivered",
            "attempt_count": 3,
            "next_attempt_at": None,
        }
        put(log, "transitions", {"epoch": 2, "sequence": 2, "at": NOW_MS + 7, **done})
        found = reads.delivery(log, None, "dlv_1")
        assert found is not None
        assert (found.state, found.reason, found.attempt_count) == ("delivered", "delivered", 3)
        assert (found.next_attempt_at_ms, found.updated_at_ms) == (None, NOW_MS + 7)

    def test_a_transition_that_is_here_before_its_delivery_is_shown(self, log: DeliveryLog) -> None:
        put(log, "transitions", {"sequence": 2, "at": NOW_MS + 9}, {"sequence": 1, "partition": 4})
        found = reads.delivery(log, "t1", "dlv_1")
        assert found is not None
        assert (found.created_at_ms, found.updated_at_ms, found.shard) == (NOW_MS, NOW_MS + 9, 4)
        assert reads.delivery(log, "t2", "dlv_1") is None

    def test_pages_of_an_events_deliveries_are_whole_and_without_repeats(self, log: DeliveryLog) -> None:
        ids = [f"dlv_{i:03}" for i in range(25)]
        for offset in (0, 100):  # fanned out twice
            put(
                log,
                "deliveries",
                *[{"delivery_id": name, "offset": offset + i} for i, name in enumerate(ids)],
            )
        put(
            log,
            "deliveries",
            {"delivery_id": "dlv_x", "event_id": "evt_2"},
            {"delivery_id": "dlv_y", "tenant_id": "t2"},
        )
        put(log, "transitions", {"delivery_id": "dlv_003", "state": "delivered"})
        read, after = [], ""
        while page := reads.deliveries_of_event(log, "t1", "evt_1", after, 10):
            read += page
            after = page[-1].id
        assert [delivery.id for delivery in read] == ids
        assert [delivery.id for delivery in read if delivery.state == "delivered"] == ["dlv_003"]
        assert reads.deliveries_of_event(log, "t3", "evt_1", "", 10) == []
        assert [d.id for d in reads.deliveries_of_event(log, None, "evt_1", "dlv_024", 10)] == ["dlv_y"]

    def test_attempts_come_in_order_each_once(self, log: DeliveryLog) -> None:
        hop = '[["https://a.example/",307,"https://b.example/"]]'
        for _ in range(2):
            put(
                log,
                "attempts",
                {
                    "number": 10,
                    "sequence": 3,
                    "hops": hop,
                    "body": b"\xff\0",
                    "status": None,
                    "error_code": "timeout",
                },
                {"number": 2, "sequence": 2, "started_at": NOW_MS + 1},
                {"number": 2, "sequence": 9, "started_at": NOW_MS + 2, "after_crash": True},
                {"delivery_id": "dlv_2"},
            )
        found = reads.attempts_of(log, "t1", "dlv_1")
        assert [(attempt.id, attempt.after_crash) for attempt in found] == [
            ("dlv_1.2", False),
            ("dlv_1.2", True),
            ("dlv_1.10", False),
        ]
        last = found[-1]
        assert (last.body, last.status, last.error_code) == (b"\xff\0", None, "timeout")
        assert last.headers == (("content-type", "text/plain"),)
        assert (last.hops[0].url, last.hops[0].status, last.hops[0].location) == (
            "https://a.example/",
            307,
            "https://b.example/",
        )
        assert reads.attempts_of(log, "t2", "dlv_1") == []
        assert len(reads.attempts_of(log, None, "dlv_2")) == 1
