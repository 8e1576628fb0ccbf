"""Retry-After in every form that HTTP knows, and everything else that receivers write there."""

import os
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.retry_after import retry_after_ms

NOW_MS = 784_111_777_000  # Sun, 06 Nov 1994 08:49:37 GMT, the moment that RFC 9110 uses
FORMS = [
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
]


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def machine_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The zone of the machine, which must not matter."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield os.environ["TZ"]
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("machine_zone")
@pytest.mark.parametrize("date", FORMS)
def test_a_date_in_any_of_the_three_forms_is_in_utc(date: str) -> None:
    assert retry_after_ms(date, NOW_MS - 5_000) == 5_000
    assert retry_after_ms(f"  {date} ", NOW_MS - 1) == 1


@pytest.mark.parametrize("date", FORMS)
def test_a_date_that_has_passed_is_now(date: str) -> None:
    assert retry_after_ms(date, NOW_MS + 1) == 0


@pytest.mark.parametrize(
    ("value", "expected_ms"),
    [
        ("0", 0),
        ("1", 1_000),
        ("120", 120_000),
        (" 7\t", 7_000),
        ("007", 7_000),
        ("9999999999", 9_999_999_999_000),
    ],
)
def test_seconds(value: str, expected_ms: int) -> None:
    assert retry_after_ms(value, NOW_MS) == expected_ms


NOTHING = ["", " ", "-1", "-120", "+5", "1.5", "1e3", "0x10", "soon", "120s", "120, 240", "12 34"]
NOTHING += ["99999999999", "9" * 5_000, "\u0663", "\u00b2", "\0", "\udcff", "Mon,", "GMT", "[]"]
NOTHING += ["Sun, 99 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:61:61 GMT"]


@pytest.mark.parametrize("value", NOTHING, ids=ascii)
def test_what_says_nothing_is_nothing(value: str) -> None:
    assert retry_after_ms(value, NOW_MS) is None


@given(st.integers(0, 10**10 - 1))
def test_any_number_of_seconds_is_taken_as_it_is(seconds: int) -> None:
    assert retry_after_ms(str(seconds), NOW_MS) == seconds * 1_000


@given(st.integers(0, 4_000_000_000), st.integers(0, 4_000_000_000_000))
def test_any_date_counts_from_now(date_s: int, now_ms: int) -> None:
    assert retry_after_ms(formatdate(date_s, usegmt=True), now_ms) == max(date_s * 1_000 - now_ms, 0)


@given(st.text() | st.text("0123456789:,+-GMTSunNov ", max_size=40), st.integers(0, 1 << 43))
def test_no_text_raises_or_hastens_anything(text: str, now_ms: int) -> None:
    delay_ms = retry_after_ms(text, now_ms)
    assert delay_ms is None or delay_ms >= 0


@given(st.sampled_from(FORMS), st.integers(0, 40), st.text(max_size=3))
def test_no_damaged_date_raises(date: str, place: int, damage: str) -> None:
    delay_ms = retry_after_ms(date[:place] + damage + date[place + 1 :], NOW_MS)
    assert delay_ms is None or delay_ms >= 0
