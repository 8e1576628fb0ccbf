"""The `Idempotency-Key` header, and the event that a key names.

A publish without a key gets a random, time-ordered id. When the log does not acknowledge it in time, the
answer must say how to try again without making two events, and the id alone does not: an id is not a key.
So such an answer carries a *retry key*, `retry-<event id>`, which names exactly that event: through any API
process, after any restart, with nothing remembered. The prefix is there because event ids are good keys for
other things (a workflow that publishes once per webhook received uses the `webhook-id`), and those name
events of their own.

Source: draft-ietf-httpapi-idempotency-key-header-07 (an RFC 8941 string; bare keys are what Stripe's and most
others' clients send, so both are taken).
"""

import re
from typing import Final

from api.problems import ProblemError
from schemas.ids import EVENT_PREFIX, event_id_from_key
from schemas.problem_codes import ProblemCode

KEY_CHARS_MAX: Final = 255
HEADER: Final = "Idempotency-Key"
REPLAYED_HEADER: Final = "Idempotent-Replayed"

_RETRY_PREFIX: Final = "retry-"
# The id is a ULID in lower-case Crockford base32; its first character holds three bits.
_RETRY_KEY: Final = re.compile(_RETRY_PREFIX + "(" + EVENT_PREFIX + "[0-7][0-9a-hjkmnp-tv-z]{25})")
_BARE: Final = re.compile(r"[!-~]{1,255}")
_QUOTED: Final = re.compile(r'"((?:[!#-\[\]-~]|\\["\\])*)"')
_ESCAPED: Final = re.compile(r"\\(.)")


def parse_key(values: list[str]) -> str | None:
    """Returns the key of a request, None without the header.

    Args:
        values: every value of the header, in order.

    Raises:
        ProblemError: `bad_header`: several keys, an empty or too long one, or one beyond visible ASCII.
    """
    if not values:
        return None
    if len(values) > 1:
        raise _bad("stands twice; send one key")
    text = values[0].strip(" \t")
    if text[:1] == '"':
        quoted = _QUOTED.fullmatch(text)
        if quoted is None:
            raise _bad('starts with a quote but is no string of visible ASCII in quotes; write "key"')
        text = _ESCAPED.sub(r"\1", quoted[1])
    if not text:
        raise _bad("is empty; send 1 to 255 characters")
    if len(text) > KEY_CHARS_MAX:
        raise _bad(f"has {len(text)} characters; send at most {KEY_CHARS_MAX}")
    if _BARE.fullmatch(text) is None:
        raise _bad("holds a space or a character beyond visible ASCII; use letters, digits and punctuation")
    return text


def event_id_of(tenant_id: str, key: str) -> str:
    """Returns the event that a key names, for ever: its own for a retry key, else one derived."""
    retry = _RETRY_KEY.fullmatch(key)
    return retry[1] if retry else event_id_from_key(tenant_id, key)


def retry_key_of(event_id: str) -> str:
    """Returns the key that repeats the publish of an event whose id was drawn."""
    return _RETRY_PREFIX + event_id


def _bad(what: str) -> ProblemError:
    return ProblemError(ProblemCode.BAD_HEADER, f"{HEADER} {what}.")
