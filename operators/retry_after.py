"""Reads a Retry-After header: seconds or an HTTP date.

Source: RFC 9110 section 10.2.3. A negative, absurd or unreadable value is no value: a receiver's typing error
must neither stop nor hasten anything.
"""

from datetime import UTC
from email.utils import parsedate_to_datetime

SECONDS_DIGITS_MAX = 10


def retry_after_ms(value: str, now_ms: int) -> int | None:
    """Returns the delay from `now_ms` in milliseconds, or None when the value says nothing.

    Args:
        value: the header's value, as it came.
        now_ms: when the answer came, milliseconds UTC; dates count from it.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return int(text) * 1_000 if len(text) <= SECONDS_DIGITS_MAX else None
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:  # asctime's form names no zone, and is in UTC (RFC 9110 section 5.6.7)
            date = date.replace(tzinfo=UTC)
        delay_ms = round(date.timestamp() * 1_000) - now_ms
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(delay_ms, 0)
