"""The one form of every answer that is not a success: RFC 9457 problem details with our members.

Source: RFC 9457 section 3; the closed list of codes is `schemas.problem_codes`.
"""

from typing import Any

from msgspec import Struct

TYPE_PREFIX = "urn:hooktide:problem:"
MEDIA_TYPE = "application/problem+json"


class FieldError(Struct, frozen=True):
    """One thing that is wrong with a body.

    Attributes:
        pointer: RFC 6901, into the request's body; empty for the body as a whole.
        code: stable, for programs; `detail` is for people and says what to do.
    """

    pointer: str
    code: str
    detail: str


class Problem(Struct, frozen=True, kw_only=True):
    """The body of a problem answer. Extension members of a code (`event_id`, ...) stand beside these."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: tuple[FieldError, ...]
    request_id: str


def with_extensions(problem: Problem, extensions: dict[str, Any]) -> dict[str, Any]:
    """Returns the problem as one object, extension members beside the common ones (RFC 9457 section 3.2)."""
    common = {name: getattr(problem, name) for name in problem.__struct_fields__}
    return {**extensions, **common}
