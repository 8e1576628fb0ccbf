"""The rules of an event: each broken alone, and the bounds on both sides."""

import pytest
from msgspec import Raw
from msgspec.structs import replace

from operators.event_rules import DATA_BYTES_MAX, ENDPOINT_IDS_MAX, OCCURRED_AT_MS_MAX, violations
from schemas.event import Event

GOOD = Event(tenant_id="acme:eu-1.x", type="order.created", data=Raw(b'{"n":1}'))


def pointers(event: Event) -> list[str]:
    return [one.pointer for one in violations(event)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"id": "evt_1"},
        {"id": "x" * 128},
        {"idempotency_key": "!" * 255},
        {"occurred_at_ms": 0},
        {"occurred_at_ms": OCCURRED_AT_MS_MAX},
        {"endpoint_ids": tuple(f"ep_{n}" for n in range(ENDPOINT_IDS_MAX))},
        {"data": Raw(b"1" * DATA_BYTES_MAX)},
        {"data": Raw('"ä€😀"'.encode())},
        {"data": Raw(b"null")},
        {"tenant_id": "t" * 64},
    ],
)
def test_good_events_break_no_rule(changes: dict[str, object]) -> None:
    assert violations(replace(GOOD, **changes)) == []


@pytest.mark.parametrize(
    ("pointer", "values"),
    [
        ("tenant_id", ["", "t" * 65, "a b", "a\n", "ä", "a/b"]),
        ("type", ["", "a b", "a.", "a\n", "x" * 129]),
        ("id", ["", "a.b", 'a"b', "a\n", "x" * 129, "ä"]),
        ("idempotency_key", ["", " ", "a b", "a\n", "k" * 256, "ä", "\x7f"]),
        ("occurred_at_ms", [-1, OCCURRED_AT_MS_MAX + 1]),
        ("endpoint_ids", [(), ("",), ("a b",), ("ep_1", "a\n"), ("ep",) * (ENDPOINT_IDS_MAX + 1)]),
        ("data", [Raw(b'"\xff"'), Raw(b'"\xed\xa0\x80"'), Raw(b"1" * (DATA_BYTES_MAX + 1))]),
    ],
)
def test_each_rule_alone(pointer: str, values: list[object]) -> None:
    for value in values:
        assert pointers(replace(GOOD, **{pointer: value})) == ["/" + pointer], value


def test_all_broken_rules_are_named_at_once() -> None:
    event = Event(
        tenant_id="",
        type="",
        data=Raw(b'"\xff"'),
        id="",
        idempotency_key="",
        occurred_at_ms=-1,
        endpoint_ids=(),
    )
    assert pointers(event) == [
        "/tenant_id", "/type", "/id", "/idempotency_key", "/occurred_at_ms", "/endpoint_ids", "/data",
    ]  # fmt: skip
