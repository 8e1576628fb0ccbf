"""Times of the API as a terminal shows them: local, short, and how far away."""

from datetime import UTC, datetime, timedelta
from typing import Final

_DAY: Final = timedelta(days=1)


def clock_time(text: str | None, *, now: datetime | None = None) -> str:
    """Returns `12:34:56` for a time within a day of now, with the date otherwise; nothing for nothing."""
    at = _parsed(text)
    if at is None:
        return text or ""
    now = now or datetime.now(UTC)
    local = at.astimezone()
    return f"{local:%H:%M:%S}" if abs(now - at) < _DAY else f"{local:%Y-%m-%d %H:%M:%S}"


def in_words(text: str | None, *, now: datetime | None = None) -> str:
    """Returns `in 5 min` for a time to come, `now` for one that is over; nothing for nothing."""
    at = _parsed(text)
    if at is None:
        return ""
    seconds = (at - (now or datetime.now(UTC))).total_seconds()
    if seconds <= 0:
        return "now"
    for unit, length in (("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"in {seconds / length:.0f} {unit}"
    return f"in {seconds:.0f} s"


def _parsed(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
