"""The API's small parts by themselves: what is bounded stays bounded, what is handed out goes out once."""

import asyncio
import threading
from contextlib import suppress
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from multidict import MultiDict

from api.entropy_pool import EntropyPool
from api.idempotency_key import event_id_of, parse_key, retry_key_of
from api.pages import cursor_of, page_of
from api.problems import ProblemError
from api.read_pool import ReadPool
from api.recent_events import KEPT_MS, RecentEvent, RecentEvents
from schemas.event import Event
from schemas.ids import event_id_from_key, time_ordered_id
from schemas.rest.times import LATEST_MS, parse_rfc3339, rfc3339


def recent_event(number: int, at_ms: int, data_bytes: int = 2) -> RecentEvent:
    data = Raw(b'"' + b"x" * (data_bytes - 2) + b'"')
    event = Event(tenant_id="acme", type="a", data=data, id=f"evt_{number}")
    return RecentEvent(f"evt_{number}", event, at_ms, ("ep_1", "ep_2"))


def test_recent_events_are_forgotten_after_a_minute() -> None:
    recent = RecentEvents()
    recent.add(recent_event(1, 0), 0)
    delivery = recent.deliveries_of(recent_event(1, 0))[0]
    assert recent.get("evt_1", KEPT_MS - 1) is not None
    assert recent.delivery(delivery.id, KEPT_MS - 1) == delivery
    assert recent.get("evt_1", KEPT_MS) is None
    assert recent.delivery(delivery.id, KEPT_MS) is None
    recent.add(recent_event(2, KEPT_MS), KEPT_MS)
    assert len(recent) == 1


def test_recent_events_are_bounded_in_bytes_and_keep_the_newest() -> None:
    recent = RecentEvents(bytes_max=100_000)
    for number in range(1_000):
        recent.add(recent_event(number, 0, data_bytes=10_000), 0)
    assert 0 < len(recent) < 10
    assert recent.get("evt_999", 0) is not None
    assert recent.get("evt_0", 0) is None


def test_an_event_too_large_for_the_bound_is_not_kept_and_nothing_breaks() -> None:
    recent = RecentEvents(bytes_max=5_000)
    recent.add(recent_event(1, 0, data_bytes=10_000), 0)
    recent.add(recent_event(2, 0), 0)
    assert recent.get("evt_1", 0) is None
    assert recent.get("evt_2", 0) is not None


@given(st.lists(st.integers(1, 40), max_size=400))
def test_no_byte_of_chance_is_handed_out_twice(counts: list[int]) -> None:
    """The source counts in 4-byte words, so bytes that were handed out twice would stand twice."""
    words = count()
    pool = EntropyPool(lambda size: b"".join(next(words).to_bytes(4, "big") for _ in range(size // 4)))
    taken = [pool.take(4 * size) for size in counts]
    assert [len(portion) for portion in taken] == [4 * size for size in counts]
    whole = b"".join(taken)
    numbers = [int.from_bytes(whole[at : at + 4], "big") for at in range(0, len(whole), 4)]
    assert numbers == sorted(set(numbers))


async def test_reads_beyond_the_queue_are_refused_at_once() -> None:
    pool = ReadPool()
    release = threading.Event()
    waiting = [asyncio.create_task(pool.run(release.wait)) for _ in range(200)]
    await asyncio.sleep(0)
    with pytest.raises(ProblemError, match="Too many reads"):
        await pool.run(release.wait)
    release.set()
    assert all(await asyncio.gather(*waiting))
    assert await pool.run(lambda: 7) == 7
    pool.close()


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255))
def test_a_key_means_the_same_quoted_and_bare(key: str) -> None:
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert parse_key([quoted]) == key
    if not key.startswith('"'):
        assert parse_key([key]) == key
    assert parse_key([]) is None


@given(st.text(max_size=300))
def test_any_key_header_is_taken_or_refused(text: str) -> None:
    with suppress(ProblemError):
        key = parse_key([text])
        assert key is not None
        assert 1 <= len(key) <= 255
        assert all(0x21 <= ord(char) <= 0x7E for char in key)


@given(now_ms=st.integers(0, 2**48 - 1), entropy=st.binary(min_size=10, max_size=10))
def test_a_retry_key_names_its_event_and_nothing_else_does(now_ms: int, entropy: bytes) -> None:
    event_id = time_ordered_id("evt_", now_ms, entropy)
    assert event_id_of("acme", retry_key_of(event_id)) == event_id
    assert event_id_of("other", retry_key_of(event_id)) == event_id
    for key in (event_id, f"retry-{event_id}x", f"Retry-{event_id}"):
        assert event_id_of("acme", key) == event_id_from_key("acme", key)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_a_cursor_continues_its_own_list_only(after: str) -> None:
    cursor = cursor_of(after, "list", "filter")
    assert page_of(MultiDict(cursor=cursor), "list", "filter").after == after
    with pytest.raises(ProblemError):
        page_of(MultiDict(cursor=cursor), "list", "other")


@given(st.text(max_size=50))
def test_any_text_as_a_cursor_is_refused_not_crashed_on(text: str) -> None:
    with suppress(ProblemError):
        assert page_of(MultiDict(cursor=text), "list").after == "" == text


@given(st.integers(0, LATEST_MS - 1))
def test_times_round_trip(at_ms: int) -> None:
    assert parse_rfc3339(rfc3339(at_ms)) == at_ms


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t01:00:00.001999+01:00", 1),
        ("2026-01-31T12:00:00.123456789Z", 1_769_860_800_123),
    ],
)
def test_the_forms_of_rfc_3339_are_read(text: str, at_ms: int) -> None:
    assert parse_rfc3339(text) == at_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-31",
        "2026-01-31 12:00:00Z",
        "2026-01-31T12:00Z",
        "2026-01-31T25:00:00Z",
        "20260131T120000Z",
        "2200-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "2026-01-31T12:00:00+25:00",
    ],
)
def test_what_is_no_time_of_ours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_rfc3339(text)
