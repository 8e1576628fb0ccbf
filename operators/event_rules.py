"""The rules an event must keep beyond its format: the API answers with them, `route` rejects by them.

One list for both: what the API accepts is never rejected later, and a producer that writes to Kafka is told
the same.

The id is spliced into the body and stands in a header and in the signed content, so it is narrow: no full
stop, because `{id}.{timestamp}.{body}` is what gets signed. `data` may be any JSON value; its syntax was
checked when the record was decoded, but the decoder does not look inside its strings, so the UTF-8 is
checked here.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from msgspec import Raw

from operators.matching import is_event_type
from schemas.event import EVENT_TYPE_CHARS_MAX, Event

DATA_BYTES_MAX = 256 << 10
"""Inline; GitHub and Svix have 25 MB and 256 KB, and a claim check carries what is larger."""
ENDPOINT_IDS_MAX = 100
OCCURRED_AT_MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999: RFC 3339 has four digits for a year."""

TENANT_ID_PATTERN = r"[A-Za-z0-9_.:-]{1,64}"
EVENT_ID_PATTERN = r"[A-Za-z0-9_:-]{1,128}"
ENDPOINT_ID_PATTERN = r"[A-Za-z0-9_-]{1,64}"
IDEMPOTENCY_KEY_PATTERN = r"[\x21-\x7e]{1,255}"
_TENANT_ID = re.compile(TENANT_ID_PATTERN)
_EVENT_ID = re.compile(EVENT_ID_PATTERN)
_ENDPOINT_ID = re.compile(ENDPOINT_ID_PATTERN)
_IDEMPOTENCY_KEY = re.compile(IDEMPOTENCY_KEY_PATTERN)


class Violation(NamedTuple):
    """A rule that an event breaks.

    Attributes:
        pointer: JSON pointer of the field.
        code: one word for programs.
        detail: a sentence for people.
    """

    pointer: str
    code: str
    detail: str


_TENANT = Violation("/tenant_id", "invalid", "must be 1-64 letters, digits or any of _ . : -")
_TYPE = Violation(
    "/type",
    "invalid",
    "must be words of letters, digits, underscores and hyphens, joined by dots, "
    f"at most {EVENT_TYPE_CHARS_MAX} characters",
)
_ID = Violation("/id", "invalid", "must be 1-128 letters, digits or any of _ : -")
_KEY = Violation("/idempotency_key", "invalid", "must be 1-255 visible ASCII characters")
_OCCURRED_AT = Violation(
    "/occurred_at_ms", "out_of_range", "must be milliseconds since 1970, up to the year 9999"
)
_ENDPOINTS = Violation("/endpoint_ids", "invalid", f"must be 1-{ENDPOINT_IDS_MAX} endpoint ids")
_NOT_UTF8 = Violation("/data", "invalid", "is not UTF-8")
_TOO_LARGE = Violation("/data", "too_large", f"is larger than {DATA_BYTES_MAX} bytes")


@lru_cache(8_192)
def is_tenant_id(text: str) -> bool:
    """Whether the text may name a tenant."""
    return _TENANT_ID.fullmatch(text) is not None


def is_idempotency_key(text: str) -> bool:
    """Whether the text may be an idempotency key."""
    return _IDEMPOTENCY_KEY.fullmatch(text) is not None


def violations(event: Event, value: bytes | None = None) -> list[Violation]:
    """Returns the rules the event breaks; an empty list for a good one (about 0.5 us).

    Args:
        value: the record's whole value, when the event came as one. What is true of all of it (that it is
            small, that it is ASCII) is true of `data`, and looking at it costs no copy.
    """
    found: list[Violation] = []
    if not is_tenant_id(event.tenant_id):
        found.append(_TENANT)
    if not is_event_type(event.type):
        found.append(_TYPE)
    if event.id is not None and _EVENT_ID.fullmatch(event.id) is None:
        found.append(_ID)
    if event.idempotency_key is not None and not is_idempotency_key(event.idempotency_key):
        found.append(_KEY)
    if event.occurred_at_ms is not None and not 0 <= event.occurred_at_ms <= OCCURRED_AT_MS_MAX:
        found.append(_OCCURRED_AT)
    if event.endpoint_ids is not None and not _are_endpoint_ids(event.endpoint_ids):
        found.append(_ENDPOINTS)
    if value is None or len(value) > DATA_BYTES_MAX or not value.isascii():
        in_data = _data_violation(event.data)
        if in_data is not None:
            found.append(in_data)
    return found


def _are_endpoint_ids(ids: tuple[str, ...]) -> bool:
    return 1 <= len(ids) <= ENDPOINT_IDS_MAX and all(_ENDPOINT_ID.fullmatch(one) for one in ids)


def _data_violation(data: Raw) -> Violation | None:
    raw = bytes(data)
    if len(raw) > DATA_BYTES_MAX:
        return _TOO_LARGE
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError:
            return _NOT_UTF8
    return None
