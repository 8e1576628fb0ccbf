"""Times at the API's edge: RFC 3339 outside, integer milliseconds UTC inside."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

LATEST_MS: Final = 7_258_118_400_000
"""2200-01-01: beyond it a time is a mistake, and the delivery log's time type ends in 2299."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)


def rfc3339(at_ms: int) -> str:
    """Returns the time as `2026-01-31T12:00:00.000Z`; always with milliseconds, so text sorts by time."""
    return f"{_second(at_ms // 1_000)}.{at_ms % 1_000:03d}Z"


def rfc3339_or_none(at_ms: int | None) -> str | None:
    """Returns the time as text, or None when there is none."""
    return None if at_ms is None else rfc3339(at_ms)


def parse_rfc3339(text: str) -> int:
    """Returns milliseconds UTC, cut, not rounded.

    Raises:
        ValueError: not RFC 3339 with an offset, no such date, or outside of 1970 to 2199.
    """
    if _RFC_3339.fullmatch(text) is None:
        raise ValueError("must be an RFC 3339 time with an offset, like 2026-01-31T12:00:00Z")
    # A difference, not a conversion: year 1 with an offset has no UTC date, but it is before 1970.
    try:
        at_ms = (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(milliseconds=1)
    except ValueError as error:
        raise ValueError("must be a day and a time that exist") from error
    if not 0 <= at_ms < LATEST_MS:
        raise ValueError("must lie between 1970 and 2199")
    return at_ms


@lru_cache(64)
def _second(at_s: int) -> str:
    """Every answer of one second shares its text: formatting costs as much as checking a body."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
