"""The keys of a shard's store sort as the engine relies on, and come apart into what they were made of."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.delivery import Lane
from schemas.wire import store_keys

ENDPOINT_ID = st.from_regex(r"\Aep_[0-9a-z]{0,6}\Z")
LANE = st.sampled_from(list(Lane))
OFFSET = st.integers(0, (1 << 63) - 1)
TIME_MS = st.integers(0, (1 << 48) - 1)


@given(ENDPOINT_ID, LANE, OFFSET)
def test_a_work_key_comes_apart_again(endpoint_id: str, lane: Lane, offset: int) -> None:
    key = store_keys.work_key(endpoint_id, lane, offset)
    assert store_keys.parse_work_key(key) == (endpoint_id, lane, offset)


@given(TIME_MS, ENDPOINT_ID, LANE, OFFSET)
def test_a_due_key_comes_apart_again(at_ms: int, endpoint_id: str, lane: Lane, offset: int) -> None:
    key = store_keys.due_key(at_ms, endpoint_id, lane, offset)
    assert store_keys.parse_due_key(key) == (at_ms, store_keys.work_key(endpoint_id, lane, offset))


@given(st.lists(st.tuples(ENDPOINT_ID, LANE, OFFSET), max_size=20))
def test_work_keys_sort_by_endpoint_then_lane_then_age(works: list[tuple[str, Lane, int]]) -> None:
    """Also when one endpoint's id begins like another's: the zero byte sorts before every character."""
    assert sorted(store_keys.work_key(*work) for work in works) == [
        store_keys.work_key(*work) for work in sorted(works)
    ]


@given(ENDPOINT_ID, LANE, OFFSET, ENDPOINT_ID, LANE, OFFSET)
def test_a_range_holds_exactly_its_rows(
    endpoint_id: str, lane: Lane, offset: int, other_id: str, other_lane: Lane, other_offset: int
) -> None:
    other = store_keys.work_key(other_id, other_lane, other_offset)
    start, end = store_keys.work_key(endpoint_id, lane, offset), store_keys.lane_end(endpoint_id, lane)
    is_inside = other_id == endpoint_id and other_lane == lane and other_offset >= offset
    assert (start <= other < end) == is_inside
    assert (other < store_keys.after_endpoint(endpoint_id)) == (other_id <= endpoint_id)


@given(TIME_MS, TIME_MS, ENDPOINT_ID, LANE, OFFSET)
def test_due_keys_sort_by_time(at_ms: int, limit_ms: int, endpoint_id: str, lane: Lane, offset: int) -> None:
    key = store_keys.due_key(at_ms, endpoint_id, lane, offset)
    assert (key < store_keys.due_time(limit_ms)) == (at_ms < limit_ms)
    assert store_keys.due_time(-1) == store_keys.due_time(0)


@given(OFFSET, OFFSET)
def test_outbox_keys_sort_by_sequence(one: int, other: int) -> None:
    assert (store_keys.outbox_key(one) < store_keys.outbox_key(other)) == (one < other)
    assert store_keys.parse_outbox_key(store_keys.outbox_key(one)) == one
