"""Entity tags of endpoints and the `If-Match` header: an edit says which version it was made from.

Comparison is strong: a weak tag never matches. `*` matches whatever is there.

Source: RFC 9110 sections 8.8.3 and 13.1.1.
"""

import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from api.problems import ProblemError
from schemas.problem_codes import ProblemCode

HEADER: Final = "If-Match"
_ANY: Final = "*"
_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_SEPARATOR: Final = re.compile(r"[ \t]*(,[ \t]*|$)")
_HEADER_CHARS_MAX: Final = 1_000


class Precondition(Struct, frozen=True):
    """What an edit was made from; no tags and not `is_any`: the caller did not say.

    Attributes:
        tags: strong tags with their quotes; weak ones are left out, for they never match.
        is_given: whether there was a header at all.
        is_any: `*`.
    """

    tags: tuple[str, ...] = ()
    is_given: bool = False
    is_any: bool = False

    def check(self, etag: str) -> None:
        """Refuses the edit of a thing that has changed since.

        Raises:
            ProblemError: `version_conflict`, with the tag that the thing has now.
        """
        if self.is_given and not self.is_any and etag not in self.tags:
            raise ProblemError(
                ProblemCode.VERSION_CONFLICT,
                "It has changed since you read it. Read it again, make your change to what it is now, and"
                " send that with the new ETag in If-Match.",
                headers={"ETag": etag},
            )


def parse_if_match(values: Sequence[str]) -> Precondition:
    """Returns what the request's `If-Match` headers say.

    Raises:
        ProblemError: `bad_header`.
    """
    if not values:
        return Precondition()
    text = ", ".join(values).strip()
    if text == _ANY:
        return Precondition(is_given=True, is_any=True)
    tags: list[str] = []
    at = 0
    while at < len(text) <= _HEADER_CHARS_MAX and (found := _TAG.match(text, at)) is not None:
        if found[1] is None:
            tags.append(f'"{found[2]}"')
        at = found.end()
        separator = _SEPARATOR.match(text, at)
        if separator is None:
            break
        at = separator.end()
    if at < len(text) or not text:
        detail = f'{HEADER} must hold the ETag of a read, quotes included (such as "3-active"), or *.'
        raise ProblemError(ProblemCode.BAD_HEADER, detail)
    return Precondition(tuple(tags), is_given=True)
