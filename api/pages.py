"""Query parameters and pages: unknown parameters are refused, cursors are opaque and bound to their filter.

A cursor holds the sort key of the last row shown, so a page costs the same wherever it is and nothing is
shown twice or left out when rows arrive in between. It carries a digest of what was listed: a cursor taken to
another list is refused instead of giving a page of nonsense. It holds no secret and grants nothing, so it is
not signed.

Rejected: offsets (they drift and get slower), and total counts (they cost a scan of everything).
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from enum import StrEnum
from hashlib import blake2b
from typing import Final, TypeVar

import msgspec
from multidict import MultiMapping

from api.problems import ProblemError
from schemas.problem_codes import ProblemCode
from schemas.rest.problem import FieldError

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 200
_CURSOR_CHARS_MAX: Final = 1_000


E = TypeVar("E", bound=StrEnum)


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    of: bytes
    after: str


class PageRequest(msgspec.Struct, frozen=True):
    """Which page of a list.

    Attributes:
        limit: rows, 1-200.
        after: the sort key of the last row shown, empty for the first page.
    """

    limit: int
    after: str


def check_parameters(query: MultiMapping[str], *known: str) -> None:
    """Refuses parameters that the route does not know, and repeated ones.

    Raises:
        ProblemError: `unknown_parameter` or `bad_parameter`.
    """
    for name in query:
        if name not in known:
            listed = f"known here: {', '.join(known)}" if known else "this path takes none"
            raise _bad(name, f"{name[:64]!r} is not a parameter; {listed}.", ProblemCode.UNKNOWN_PARAMETER)
        if len(query.getall(name)) > 1:
            raise _bad(name, f"{name} stands twice; give it once.")


def choice_of(query: Mapping[str, str], name: str, words: type[E]) -> E | None:
    """Returns the word that a parameter names, None when it is absent.

    Raises:
        ProblemError: `bad_parameter`, with the words there are.
    """
    text = query.get(name)
    if text is None:
        return None
    try:
        return words(text)
    except ValueError as error:
        raise _bad(name, f"{name} is one of {', '.join(words)}.") from error


def page_of(query: Mapping[str, str], *listed: str) -> PageRequest:
    """Returns the page that `limit` and `cursor` ask for.

    Args:
        query: the request's parameters.
        listed: what is listed, filters included; a cursor is good for exactly that.

    Raises:
        ProblemError: `bad_parameter`.
    """
    text = query.get("limit", str(LIMIT_DEFAULT))
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= LIMIT_MAX):
        raise _bad("limit", f"limit must be a number from 1 to {LIMIT_MAX}.")
    cursor = query.get("cursor", "")
    return PageRequest(limit=int(text), after=_read(cursor, listed) if cursor else "")


def cursor_of(after: str, *listed: str) -> str:
    """Returns the cursor that continues after the row with this sort key."""
    raw = msgspec.msgpack.encode(_Cursor(_digest(listed), after))
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _read(cursor: str, listed: tuple[str, ...]) -> str:
    problem = _bad("cursor", "cursor is not one that this list gave out; start without it.")
    if len(cursor) > _CURSOR_CHARS_MAX or not cursor.isascii():
        raise problem
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        read = msgspec.msgpack.decode(raw, type=_Cursor)
    except (Base64Error, ValueError, msgspec.MsgspecError) as error:
        raise problem from error
    if read.of != _digest(listed):
        raise problem
    return read.after


def _digest(listed: tuple[str, ...]) -> bytes:
    return blake2b("\0".join(listed).encode("utf-8", "replace"), digest_size=6).digest()


def _bad(name: str, detail: str, code: ProblemCode = ProblemCode.BAD_PARAMETER) -> ProblemError:
    return ProblemError(code, detail, errors=(FieldError(f"?{name[:64]}", code.value, detail),))
