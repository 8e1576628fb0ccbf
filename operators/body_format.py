"""The body of a webhook: `{"id","type","timestamp","api_version","data"}`, put together from bytes, once.

What is signed and sent is what is made here, to the byte, for every attempt and every replay; so `data` is
spliced in as it came (no re-serialising: key order, number spelling and spaces stay the producer's), and
this function is a pure, golden-tested part of the format. A replay renders again from the stored data and
must get the same.

An `api_version` names the shape of `data` that the customer signed up for; the envelope has been the same
for all versions so far. A changed envelope is a new entry in `API_VERSIONS` with its own function, never an
edit of this one.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

import msgspec

API_VERSIONS = ("1",)
"""What an endpoint may ask for, oldest first."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS = tuple(b".%03dZ" % ms for ms in range(1_000))
_quote = msgspec.json.Encoder().encode


def render(event_id: str, event_type: str, at_ms: int, api_version: str, data: bytes | msgspec.Raw) -> bytes:
    """Returns the body.

    Args:
        event_id: the same as in `webhook-id`.
        at_ms: when it happened, else when the log took it; milliseconds UTC, up to the year 9999.
        data: valid JSON in UTF-8; goes in untouched.
    """
    # One join: half the time of a format with `%b`.
    return b"".join(
        (
            b'{"id":',
            _quote(event_id),
            b',"type":',
            _quoted(event_type),
            b',"timestamp":"',
            _second(at_ms // 1_000),
            _MILLISECONDS[at_ms % 1_000],
            b'","api_version":',
            _quoted(api_version),
            b',"data":',
            data,
            b"}",
        )
    )


def rfc3339(at_ms: int) -> str:
    """Returns the time as RFC 3339 in UTC with milliseconds, for example `2026-01-31T09:05:00.042Z`."""
    return (_second(at_ms // 1_000) + _MILLISECONDS[at_ms % 1_000]).decode("ascii")


@lru_cache(8_192)
def _quoted(text: str) -> bytes:
    return _quote(text)


@lru_cache(1_024)
def _second(at_s: int) -> bytes:
    return (_EPOCH + timedelta(seconds=at_s)).strftime("%Y-%m-%dT%H:%M:%S").encode("ascii")
