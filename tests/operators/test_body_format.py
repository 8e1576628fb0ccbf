"""The body's bytes: golden ones, and that whatever goes in comes out of any JSON parser again."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from operators.body_format import API_VERSIONS, render, rfc3339

GOLDEN = {
    ("evt_1", "order.created", 1_769_850_300_042, "1", b'{"b": 1.0, "a":[ ]}'): (
        b'{"id":"evt_1","type":"order.created","timestamp":"2026-01-31T09:05:00.042Z","api_version":"1",'
        b'"data":{"b": 1.0, "a":[ ]}}'
    ),
    ("x", "a", 0, "1", b"null"): (
        b'{"id":"x","type":"a","timestamp":"1970-01-01T00:00:00.000Z","api_version":"1","data":null}'
    ),
    ("x", "a", 253_402_300_799_999, "1", '"ä"'.encode()): (
        b'{"id":"x","type":"a","timestamp":"9999-12-31T23:59:59.999Z","api_version":"1","data":"\xc3\xa4"}'
    ),
}


@pytest.mark.parametrize("arguments", list(GOLDEN))
def test_golden_bodies(arguments: tuple[str, str, int, str, bytes]) -> None:
    assert render(*arguments) == GOLDEN[arguments]
    event_id, event_type, at_ms, api_version, data = arguments
    assert render(event_id, event_type, at_ms, api_version, Raw(data)) == GOLDEN[arguments]


def test_the_first_version_is_one_for_ever() -> None:
    assert API_VERSIONS[0] == "1"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    event_id=st.text(),
    event_type=st.text(),
    at_ms=st.integers(0, 253_402_300_799_999),
    api_version=st.text(),
    value=JSON_VALUES,
)
def test_any_parts_make_one_json_object_with_the_data_untouched(
    event_id: str, event_type: str, at_ms: int, api_version: str, value: object
) -> None:
    data = json.dumps(value).encode()
    body = render(event_id, event_type, at_ms, api_version, data)
    parsed = json.loads(body)
    assert list(parsed) == ["id", "type", "timestamp", "api_version", "data"]
    assert (parsed["id"], parsed["type"], parsed["api_version"]) == (event_id, event_type, api_version)
    assert body.endswith(b'"data":' + data + b"}")
    at = datetime.fromisoformat(parsed["timestamp"])
    assert (at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000 == pytest.approx(at_ms, abs=0.5)
    assert parsed["timestamp"] == rfc3339(at_ms)
