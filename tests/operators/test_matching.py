"""Patterns: the grammar against a second, slower reading of it, and what is refused."""

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.matching import PATTERNS_MAX, is_event_type, is_pattern, matches, pattern_faults, patterns_of

WORDS = ("a", "b", "ab")
TYPES = [".".join(words) for length in (1, 2, 3) for words in product(WORDS, repeat=length)]
PATTERNS = ["*", *TYPES, *(f"{one}.*" for one in TYPES)]


def reads_as_match(pattern: str, event_type: str) -> bool:
    """The grammar as a sentence: a star alone, the same words, or these words and at least one more."""
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return re.fullmatch(re.escape(pattern[:-1]) + ".+", event_type) is not None
    return pattern == event_type


def test_every_pattern_against_every_type() -> None:
    for pattern in PATTERNS:
        assert is_pattern(pattern)
        for event_type in TYPES:
            assert matches([pattern], event_type) is reads_as_match(pattern, event_type), (
                pattern,
                event_type,
            )


@pytest.mark.parametrize(
    ("pattern", "event_type", "is_match"),
    [
        ("order.*", "order.created", True),
        ("order.*", "order.item.added", True),
        ("order.*", "order", False),
        ("order.*", "orders.created", False),
        ("order.item.*", "order.created", False),
        ("order", "order.created", False),
        ("Order.*", "order.created", False),
    ],
)
def test_the_documented_examples(pattern: str, event_type: str, *, is_match: bool) -> None:
    assert matches([pattern], event_type) is is_match


def test_a_type_of_n_segments_matches_n_plus_one_patterns() -> None:
    assert patterns_of("a.b.c") == ("*", "a.*", "a.b.*", "a.b.c")
    assert patterns_of("a") == ("*", "a")


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", ".a", "a..b", "a b", "a+b", "a\n", "ä", "a.*", "*", "a" * 129, "a\x00", "٣"],
)
def test_what_is_no_event_type(text: str) -> None:
    assert not is_event_type(text)


@pytest.mark.parametrize(
    "text", ["", "**", "*.a", "a*", "a.*.b", ".*", "a.*.*", "a..*", "*\n", "a.*\n", "a" * 129 + ".*"]
)
def test_what_is_no_pattern(text: str) -> None:
    assert not is_pattern(text)
    (fault,) = pattern_faults(["ok", text])
    assert fault.place == 1
    assert fault.detail


def test_how_many_patterns_an_endpoint_may_have() -> None:
    assert pattern_faults([]) != []
    many = [f"type_{number}" for number in range(PATTERNS_MAX + 1)]
    assert pattern_faults(many[:-1]) == []
    (fault,) = pattern_faults(many)
    assert (fault.place, "101" in fault.detail) == (None, True)


@given(st.text(max_size=140))
def test_a_type_is_what_matches_itself_exactly(text: str) -> None:
    expected = len(text) <= 128 and re.fullmatch(r"[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*", text) is not None
    assert is_event_type(text) is expected
    if expected:
        assert matches([text], text)
