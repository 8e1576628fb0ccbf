"""Rows follow their table's columns, and take over every field of the record they were made from."""

from msgspec import Raw
from msgspec.structs import asdict, replace

from operators import log_rows
from operators.event_identity import identify
from operators.log_rows import COLUMNS, TIME_MS_MAX
from schemas.attempt import Attempt
from schemas.dead_letter import DeadLetter, DeadLetterKey
from schemas.delivery import Delivery, DeliveryState, EventPosition, Lane
from schemas.event import Event
from schemas.ids import attempt_id, event_id_from_key, event_id_from_position
from schemas.outcome import ErrorCode, Hop
from schemas.transition import Reason, RowStamp, Transition, TransitionKey

ATTEMPT = Attempt(
    number=2,
    started_at_ms=1_000,
    finished_at_ms=1_030,
    url="https://receiver.example/hook",
    status=502,
    error_code=ErrorCode.NONE,
    error_detail="",
    headers=(("server", "nginx"),),
    body=b"\x00\xff",
    is_body_truncated=False,
    queued_us=1,
    connect_us=2,
    first_byte_us=3,
    total_us=4,
    peer="192.0.2.1:443",
    is_reused_connection=True,
    requests_sent=2,
    after_crash=True,
    hops=(Hop("https://a.example/", 307, "https://b.example/"),),
)
KEY = TransitionKey(
    delivery_id="dlv_1",
    stamp=RowStamp(7, 42),
    endpoint_id="ep_1",
    lane=Lane.RETRY,
    offset=11,
    state=DeliveryState.RETRYING,
    attempt_count=2,
    schedule_step=1,
    next_attempt_at_ms=9_000,
    digest=b"12345678",
    recorded_at_ms=500,
)
VALUE = Transition(
    event_id="evt_1",
    tenant_id="t1",
    event_type="order.created",
    replay_id="",
    reason=Reason.FAILED,
    at_ms=1_031,
    attempt=ATTEMPT,
    actor="alice",
)
DELIVERY = Delivery(
    id="dlv_1",
    event_id="evt_1",
    endpoint_id="ep_1",
    tenant_id="t1",
    event_type="order.created",
    replay_id="rpl_1",
    body=b"{}",
    digest=b"12345678",
    recorded_at_ms=500,
    event_position=EventPosition(1, 2),
    matched_at=3,
)


def named(table: str, row: log_rows.Row) -> dict[str, object]:
    return dict(zip(COLUMNS[table], row, strict=True))


def event(**fields: object) -> Event:
    return Event(**{"tenant_id": "t1", "type": "a", "data": Raw(b"1")} | fields)  # type: ignore[arg-type]


def test_an_attempt_row_holds_every_field_of_the_attempt_under_its_own_name() -> None:
    _, row = log_rows.transition_rows(KEY, VALUE, 5)
    assert row is not None
    found = named(log_rows.ATTEMPTS, row)
    wanted = {name.removesuffix("_ms"): value for name, value in asdict(ATTEMPT).items()}
    wanted["hops"] = b'[["https://a.example/",307,"https://b.example/"]]'
    assert {name: found[name] for name in wanted} == wanted
    assert {name: value for name, value in found.items() if name not in wanted} == {
        "tenant_id": "t1",
        "delivery_id": "dlv_1",
        "event_id": "evt_1",
        "endpoint_id": "ep_1",
        "event_type": "order.created",
        "state": "retrying",
        "partition": 5,
        "epoch": 7,
        "sequence": 42,
    }


def test_a_transition_row_says_what_changed_and_no_attempt_makes_no_attempt_row() -> None:
    row, tried = log_rows.transition_rows(
        KEY, Transition("evt_1", "t1", "a", "", Reason.CANCELLED_BY_PERSON, 8, None, "bob"), 5
    )
    assert tried is None
    assert named(log_rows.TRANSITIONS, row) == {
        "tenant_id": "t1",
        "delivery_id": "dlv_1",
        "event_id": "evt_1",
        "endpoint_id": "ep_1",
        "event_type": "a",
        "state": "retrying",
        "reason": "cancelled_by_person",
        "attempt_count": 2,
        "schedule_step": 1,
        "next_attempt_at": 9_000,
        "at": 8,
        "actor": "bob",
        "partition": 5,
        "epoch": 7,
        "sequence": 42,
    }


def test_no_next_attempt_is_null_and_no_hops_is_an_empty_list() -> None:
    key = TransitionKey(
        "dlv_1", RowStamp(1, 1), "ep_1", Lane.FRESH, 0, DeliveryState.DELIVERED, 1, 1, 0, b"", 0
    )
    attempt = replace(ATTEMPT, hops=())
    row, tried = log_rows.transition_rows(
        key, Transition("evt_1", "t1", "a", "", Reason.DELIVERED, 8, attempt), 0
    )
    assert tried is not None
    assert named(log_rows.TRANSITIONS, row)["next_attempt_at"] is None
    assert named(log_rows.ATTEMPTS, tried)["hops"] == "[]"


def test_a_dead_letter_row_keeps_the_body_and_the_name_of_its_key() -> None:
    letter = DeadLetter(DELIVERY, 11, Reason.TOO_OLD, 77, 0, None, ErrorCode.NONE)
    row = log_rows.dead_letter_row(DeadLetterKey("dlv_1@3.11", RowStamp(7, 43)), letter, 3)
    assert named(log_rows.DEAD_LETTERS, row) == {
        "tenant_id": "t1",
        "delivery_id": "dlv_1",
        "name": "dlv_1@3.11",
        "event_id": "evt_1",
        "endpoint_id": "ep_1",
        "event_type": "order.created",
        "replay_id": "rpl_1",
        "reason": "too_old",
        "at": 77,
        "attempt_count": 0,
        "last_status": None,
        "last_error_code": "",
        "body": b"{}",
        "partition": 3,
        "epoch": 7,
        "sequence": 43,
    }


def test_a_delivery_row_is_named_by_its_position_and_timed_by_the_log() -> None:
    row = log_rows.delivery_row(DELIVERY, 3, 11, 600)
    assert row == ("t1", "dlv_1", "evt_1", "ep_1", "order.created", "rpl_1", 600, 3, 11)


def test_an_event_row_keeps_the_accepted_bytes_and_the_logs_time_where_the_producer_gave_none() -> None:
    data = b'{"a" : 1.0,\n\n "b":"\\u00e9"}'
    row = named(log_rows.EVENTS, log_rows.event_row(event(data=Raw(data)), "evt_9", 1, 2, 600))
    assert row["data"] == data
    assert (row["recorded_at"], row["occurred_at"], row["idempotency_key"]) == (600, 600, "")


def test_a_producers_impossible_time_is_brought_inside_what_the_column_holds() -> None:
    for said, kept in ((-5, 0), (0, 0), (10**30, TIME_MS_MAX), (7, 7)):
        row = named(log_rows.EVENTS, log_rows.event_row(event(occurred_at_ms=said), "evt_9", 1, 2, 600))
        assert row["occurred_at"] == kept


def test_fitted_changes_only_what_does_not_fit() -> None:
    _, row = log_rows.transition_rows(KEY, VALUE, 5)
    assert row is not None
    assert log_rows.fitted(log_rows.ATTEMPTS, [row]) == [row]
    wild = named(log_rows.ATTEMPTS, row) | {"queued_us": 1 << 40, "number": -1, "status": 1 << 20}
    (tamed,) = log_rows.fitted(log_rows.ATTEMPTS, [tuple(wild.values())])
    assert named(log_rows.ATTEMPTS, tamed) == wild | {
        "queued_us": (1 << 32) - 1,
        "number": 0,
        "status": (1 << 16) - 1,
    }


def test_an_event_is_called_by_its_id_then_by_its_key_then_by_its_position() -> None:
    def name(**fields: object) -> str:
        return identify(event(**fields), "cluster", "events", 3, 99)

    assert name(id="evt_own", idempotency_key="k") == "evt_own"
    assert name(idempotency_key="k") == event_id_from_key("t1", "k")
    assert name() == event_id_from_position("cluster", "events", 3, 99)
    assert name(id="", idempotency_key="") == name()


def test_the_id_of_an_attempt_is_what_the_table_computes() -> None:
    assert (
        attempt_id("dlv_1", 2) == "dlv_1.2"
    )  # 0004_attempts.sql: concat(delivery_id, '.', toString(number))
