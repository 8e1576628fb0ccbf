"""Ids are a contract for ever: the golden values here are what stands in customers' databases."""

import base64
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import ids

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def test_ids_are_what_they_always_were() -> None:
    """A difference here names every event and delivery anew: old ones would be sent again."""
    assert ids.event_id_from_key("tenant_1", "order-77") == "evt_li4mw2gxyaxh3lubkedckl2nfi"
    assert ids.event_id_from_position("cluster", "events", 3, 1_234_567) == "evt_klmoosrh6pdcqd2o4e4j6lmhmq"
    assert ids.delivery_id("evt_a", "ep_b") == "dlv_dbpai5fvio7v2tkxjow7gfb3rq"
    assert ids.delivery_id("evt_a", "ep_b", "rpl_c") == "dlv_o2anbzjgecu3ma6fzdxshdoaby"
    assert ids.attempt_id("dlv_x", 12) == "dlv_x.12"
    assert (
        ids.time_ordered_id("evt_", 1_800_000_000_000, bytes(range(10))) == "evt_01mcc5rm00000g40r40m30e209"
    )
    assert ids.content_digest("order.created", b'{"a":1}').hex() == "831c4ca53ed31b5c"
    assert [ids.partition_of(key, 64) for key in ("tenant_1", "ep_b", "")] == [11, 18, 0]
    assert ids.unit_interval("jitter", "dlv_x", "1") == 0.44718502281722083


@given(st.binary(min_size=16, max_size=16))
def test_base32_is_that_of_the_standard(digest: bytes) -> None:
    standard = base64.b32encode(digest).decode().rstrip("=").lower()
    assert ids.base32_128(digest) == standard


@given(st.lists(TEXT, min_size=2, max_size=3), st.lists(TEXT, min_size=2, max_size=3))
def test_moving_a_boundary_between_parts_makes_another_id(some: list[str], others: list[str]) -> None:
    one, other = (ids.delivery_id(*parts) for parts in (some, others))
    assert (one == other) == ([*some, ""][:3] == [*others, ""][:3])


def test_parts_that_read_alike_together_are_apart() -> None:
    assert ids.event_id_from_key("a", "bc") != ids.event_id_from_key("ab", "c")
    assert ids.event_id_from_key("a", "") != ids.event_id_from_key("", "a")
    assert ids.delivery_id("a", "bc") != ids.delivery_id("ab", "c")
    assert ids.delivery_id("1:a", "") != ids.delivery_id("", "1:a")
    assert ids.event_id_from_position("c", "t", 1, 23) != ids.event_id_from_position("c", "t", 12, 3)
    # A key that spells a position does not meet it: the kind of name is a part too.
    assert ids.event_id_from_key("c", "t") != ids.event_id_from_position("c", "t", 0, 0)
    assert ids.content_digest("a", b"b") != ids.content_digest("ab", b"")


def test_ids_are_of_one_length_and_safe_in_urls() -> None:
    for name in (ids.event_id_from_key("ä", "✓"), ids.delivery_id("", ""), ids.delivery_id("x" * 999, "y")):
        assert len(name) == 30
        assert name.replace("_", "").isalnum()
        assert name == name.lower()


@pytest.mark.parametrize("partition_count", [1, 2, 8, 64, 100])
def test_partitions_are_even(partition_count: int) -> None:
    """Chi-square over 20,000 keys of the form that endpoint ids have, against its 99.9999 % bound."""
    drawn = 20_000
    counts = Counter(
        ids.partition_of(ids.time_ordered_id("ep_", number * 7_919, number.to_bytes(10)), partition_count)
        for number in range(drawn)
    )
    expected = drawn / partition_count
    chi_square = sum((counts[p] - expected) ** 2 / expected for p in range(partition_count))
    freedom = partition_count - 1
    assert set(counts) <= set(range(partition_count))
    assert chi_square <= freedom + 5 * math.sqrt(2 * freedom) + 10


def test_the_unit_interval_is_uniform_and_repeats() -> None:
    """Kolmogorov-Smirnov over 20,000 draws: the largest distance to the diagonal, at 99.99 %."""
    drawn = 20_000
    values = sorted(ids.unit_interval("jitter", f"dlv_{number}", "1") for number in range(drawn))
    distance = max(
        max(abs(value - place / drawn), abs(value - (place + 1) / drawn))
        for place, value in enumerate(values)
    )
    assert distance < 2.23 / math.sqrt(drawn)
    assert values == sorted(ids.unit_interval("jitter", f"dlv_{number}", "1") for number in range(drawn))


def test_the_unit_interval_never_reaches_one() -> None:
    """A 64-bit numerator would round up to 1.0 at its end; 53 bits are what a float holds."""
    assert ((1 << 64) - 1) / (1 << 64) == 1.0
    assert (((1 << 64) - 1) >> 11) / ids._UNIT < 1.0


@given(st.integers(0, (1 << 48) - 1), st.integers(0, (1 << 48) - 1), st.binary(min_size=10, max_size=10))
def test_time_ordered_ids_sort_by_time(one_ms: int, other_ms: int, entropy: bytes) -> None:
    one = ids.time_ordered_id("ep_", one_ms, entropy)
    other = ids.time_ordered_id("ep_", other_ms, bytes(10))
    if one_ms != other_ms:
        assert (one < other) == (one_ms < other_ms)
    assert len(one) == 3 + 26


def test_time_ordered_ids_of_one_moment_differ_by_their_chance() -> None:
    made = {ids.time_ordered_id("ep_", 1, number.to_bytes(10)) for number in range(1_000)}
    assert len(made) == 1_000
