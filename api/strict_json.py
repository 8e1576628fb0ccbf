r"""The one JSON reader of the API: RFC 8259 held to the letter, and what RFC 7493 (I-JSON) refuses, refused.

An event's `data` is forwarded byte for byte to parsers that we do not know. What two parsers may read
differently is an attack on one of them or a bug of the producer, so it is refused here, where somebody can
still mend it: duplicate names, lone surrogates, NaN and Infinity, numbers beyond a double, NUL characters,
invalid UTF-8, nesting that overflows somebody's stack.

msgspec reads everything once and refuses all of it but three things. Those cost as little as can be, because
every publish pays:

- Duplicate names. msgspec keeps the last one, so a dropped name shows: the value, written again, has fewer
  colons than the text had. A colon hidden in a `\u` escape could cheat the count; such a text goes to the
  slow, exact reader, as one whose count differs does, to find out which name it was.
- NUL: `\u0000` with an even number of backslashes before it.
- Depth: no text with fewer brackets than the limit is too deep; only others are measured.

Rejected: `json` with `object_pairs_hook` for all (it is the slow reader, and it lets surrogates, infinities
and control characters pass); checking only `data` (a duplicate `tenant_id` is worse).
"""

import json
import re
from itertools import accumulate
from typing import Any, Final

import msgspec

DEPTH_MAX: Final = 128
"""Levels of arrays and objects, the body included. Precedents: .NET 64, serde_json 128, Jackson 1,000."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_PLACE: Final = re.compile(r"\(byte (\d+)\)")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_NO_BRACKET: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEP_OF: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


class NotStrictJsonError(Exception):
    """The text is not the JSON we take; the message is a sentence that says what to do."""


def read(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Returns the value of a JSON text.

    Raises:
        NotStrictJsonError: see the head of the file.
    """
    try:
        value = _decode(raw)
    except RecursionError as error:
        raise NotStrictJsonError(_too_deep()) from error
    except UnicodeDecodeError as error:
        raise NotStrictJsonError("The body is not valid UTF-8; encode it as UTF-8.") from error
    except msgspec.ValidationError as error:
        raise NotStrictJsonError("A number is too large for a double; send it as a string.") from error
    except msgspec.DecodeError as error:
        raise NotStrictJsonError(_explain(raw, str(error))) from error
    if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX and _depth(raw) > DEPTH_MAX:
        raise NotStrictJsonError(_too_deep())
    if b"\\u0000" in raw and _NUL.search(raw):
        raise NotStrictJsonError("A string contains the character NUL (\\u0000); remove it.")
    if isinstance(value, dict | list) and not _names_surely_differ(raw, value):
        _refuse_duplicates(raw)
    return value


def _explain(raw: bytes, reason: str) -> str:
    """Returns a sentence for a text that msgspec does not take; it says what msgspec's reason does not."""
    if not raw.strip():
        return "The body is empty; send one JSON value (RFC 8259)."
    if raw.startswith(_BYTE_ORDER_MARKS):
        return "The body starts with a byte order mark; send UTF-8 without one."
    place = _PLACE.search(reason)
    if place is not None and raw.startswith((b"NaN", b"Infinity"), int(place[1])):
        return "NaN and Infinity are no JSON (RFC 8259); send null or a string instead."
    if _SURROGATE.search(raw) and ("surrogate" in reason or _reads_leniently(raw)):
        return "A string holds half of a surrogate pair (\\ud800 to \\udfff); send both halves or neither."
    return f"{reason.removesuffix('.')}; send one JSON value (RFC 8259)."


def _reads_leniently(raw: bytes) -> bool:
    """Whether Python takes the text, which lets lone surrogates pass."""
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def _too_deep() -> str:
    return f"The body is nested more than {DEPTH_MAX} levels deep; flatten it."


def _depth(raw: bytes) -> int:
    """Measures the depth of a valid text: without escapes, every other piece between quotes is a string."""
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    steps = b"".join(raw.split(b'"')[::2]).translate(_STEP_OF, _NO_BRACKET)
    return max(accumulate(memoryview(steps).cast("b")), default=0)


def _names_surely_differ(raw: bytes, value: object) -> bool:
    if b"\\u003" in raw and (b"\\u003a" in raw or b"\\u003A" in raw):
        return False
    try:
        again = _encode(value)
    except OverflowError:  # an integer of more than 64 bits, which msgspec reads but does not write
        return False
    # Every colon in a string of `again` also stands in `raw`: as many there means that no name was dropped.
    return raw.count(b":") == again.count(b":")


def _refuse_duplicates(raw: bytes) -> None:
    """Reads again, slowly and exactly; the text is known to be valid and shallow."""
    json.loads(raw, object_pairs_hook=_distinct)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    distinct = dict(pairs)
    if len(distinct) != len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise NotStrictJsonError(f"The name {name[:64]!r} stands twice in one object; keep one of them.")
    return distinct
