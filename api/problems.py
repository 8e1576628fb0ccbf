"""Refusals: actions raise `ProblemError`, the front turns it into the one RFC 9457 answer.

An exception and not a return value, because a refusal may come from any depth (a header, a field, a full log)
and always ends the request. It carries no aiohttp type, so actions stay free of the web server.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas.problem_codes import STATUS_OF, ProblemCode
from schemas.rest.problem import TYPE_PREFIX, FieldError, Problem, with_extensions

_TITLE_OF: Final = {
    ProblemCode.MALFORMED_HTTP: "The request is not HTTP that we take",
    ProblemCode.MALFORMED_JSON: "The body is not JSON that we take",
    ProblemCode.BAD_HEADER: "A header is malformed",
    ProblemCode.UNKNOWN_PARAMETER: "Unknown query parameter",
    ProblemCode.BAD_PARAMETER: "A query parameter is malformed",
    ProblemCode.UNAUTHENTICATED: "A valid key is required",
    ProblemCode.FORBIDDEN: "The key does not allow this",
    ProblemCode.NOT_FOUND: "Not found",
    ProblemCode.METHOD_NOT_ALLOWED: "Method not allowed",
    ProblemCode.REQUEST_TIMEOUT: "The body did not arrive in time",
    ProblemCode.IN_PROGRESS: "A request with this key is in progress",
    ProblemCode.WRONG_STATE: "Not possible in this state",
    ProblemCode.VERSION_CONFLICT: "The resource has changed",
    ProblemCode.TOO_LARGE: "Too large",
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: "Unsupported media type",
    ProblemCode.INVALID_FIELDS: "Fields are invalid",
    ProblemCode.IDEMPOTENCY_MISMATCH: "The idempotency key was used with another body",
    ProblemCode.URL_NOT_ALLOWED: "The URL is not allowed",
    ProblemCode.ENDPOINT_UNREACHABLE: "The endpoint did not answer as it must",
    ProblemCode.RATE_LIMITED: "Too many requests",
    ProblemCode.HEAD_TOO_LARGE: "The head of the request is too large",
    ProblemCode.LOG_UNAVAILABLE: "The log did not acknowledge in time",
    ProblemCode.DISK_FULL: "The disk is nearly full",
    ProblemCode.NOT_READY: "Not ready",
    ProblemCode.INTERNAL: "An error on our side",
}


class ProblemError(Exception):
    """Ends a request with a problem answer.

    Args:
        code: decides status, type and title.
        detail: a sentence for this occurrence that says what to do.
        errors: field by field, for `invalid_fields` and its kin.
        headers: further answer headers, such as `Retry-After` or `Allow`.
        extensions: further members of the body, such as `event_id`.
    """

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status = STATUS_OF[code]
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})

    def body(self, request_id: str) -> bytes:
        """Returns the answer's JSON."""
        problem = Problem(
            type=TYPE_PREFIX + self.code,
            title=_TITLE_OF[self.code],
            status=self.status,
            detail=self.detail,
            code=self.code,
            errors=self.errors,
            request_id=request_id,
        )
        return msgspec.json.encode(with_extensions(problem, self.extensions))


def not_found(what: str) -> ProblemError:
    """Returns the 404 for an id that is unknown, or that belongs to somebody else (never told apart)."""
    return ProblemError(ProblemCode.NOT_FOUND, f"There is no such {what}; check the id and the tenant.")


def invalid_field(pointer: str, code: str, detail: str) -> ProblemError:
    """Returns the 422 for one field."""
    return ProblemError(
        ProblemCode.INVALID_FIELDS,
        f"{pointer or 'The body'}: {detail}",
        errors=(FieldError(pointer, code, detail),),
    )
