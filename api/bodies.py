"""Request bodies: read within a limit, checked as JSON, validated into a model with every mistake listed."""

import asyncio
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from api.problems import ProblemError
from api.strict_json import NotStrictJsonError, read
from operators.event_rules import DATA_BYTES_MAX
from schemas.problem_codes import ProblemCode
from schemas.rest.problem import FieldError
from schemas.rest.request import RequestBody

BODY_BYTES_MAX: Final = DATA_BYTES_MAX + 64 * 1024
"""An event's `data` and room for the rest; `client_max_size` of the server."""

BODY_PATIENCE_DEFAULT_S: Final = 30.0
"""For the whole body, however slowly it drips: nginx and Apache wait 60 s and 20 s between two reads, which
a byte at a time holds open for ever. 30 s for 320 KiB is 11 KB/s, slower than any producer."""
BODY_PATIENCE_S: Final = web.AppKey("body_patience_s", float)

B = TypeVar("B", bound=BaseModel)

MERGE_PATCH: Final = "application/merge-patch+json"
_JSON: Final = "application/json"
_FIELDS_MAX: Final = 50  # a body of 100,000 unknown fields must not be answered with as many sentences
_FIELD_CHARS_MAX: Final = 200
# pydantic's names are its own business; ours are a closed list, and so are the sentences that need mending.
_CODE_OF: Final = {
    "missing": "required",
    "extra_forbidden": "unknown_field",
    "string_type": "wrong_type",
    "int_type": "wrong_type",
    "float_type": "wrong_type",
    "list_type": "wrong_type",
    "dict_type": "wrong_type",
    "model_type": "wrong_type",
    "model_attributes_type": "wrong_type",
    "string_too_short": "too_short",
    "string_too_long": "too_long",
    "too_short": "too_short",
    "too_long": "too_long",
    "greater_than_equal": "out_of_range",
    "less_than_equal": "out_of_range",
    "finite_number": "out_of_range",
    "enum": "not_allowed",
    "literal_error": "not_allowed",
    "bool_type": "wrong_type",
    "one_form": "one_form",
    "out_of_range": "out_of_range",
    "invalid_format": "invalid",
}
_SENTENCE_OF: Final = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this request; remove it",
    "model_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "list_type": "must be a JSON array",
    "string_type": "must be a string",
    "int_type": "must be a whole number, without quotes",
    "float_type": "must be a number, without quotes",
    "bool_type": "must be true or false",
    "string_too_short": "must have {min_length} or more characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have at most {max_length} entries",
    "greater_than_equal": "must be at least {ge:.10g}",
    "less_than_equal": "must be at most {le:.10g}",
    "enum": "must be one of {expected}",
    "literal_error": "must be one of {expected}",
}
"""With pydantic's context, which holds the rule and not the input."""


async def read_optional_body(request: web.Request) -> dict[str, Any]:
    """Returns the JSON object of a body that may be missing, empty then.

    Raises:
        ProblemError: as `read_body` and `parse_object`.
    """
    if not request.body_exists:
        return {}
    raw = await read_body(request)
    return parse_object(raw) if raw else {}


async def read_no_fields(request: web.Request) -> None:
    """Refuses a body that holds anything: a field that does nothing is a mistake of its sender.

    Raises:
        ProblemError: as `read_optional_body`, and `invalid_fields`.
    """
    validate(RequestBody, await read_optional_body(request))


async def read_body(request: web.Request, *also: str) -> bytes:
    """Returns the bytes of a JSON body.

    Args:
        also: media types that are taken besides JSON's own.

    Raises:
        ProblemError: another content type or encoding (415), too many bytes (413), or too slow (408).
    """
    header = request.headers.get("Content-Type", "")
    if header != _JSON:
        _check_content_type(header, also)
    encoding = request.headers.get("Content-Encoding")
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise ProblemError(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE, "Compressed bodies are not taken; leave Content-Encoding out."
        )
    patience_s = request.app.get(BODY_PATIENCE_S, BODY_PATIENCE_DEFAULT_S)
    try:
        async with asyncio.timeout(patience_s):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large(f"The body has more than {BODY_BYTES_MAX} bytes; make it smaller.") from error
    except TimeoutError as error:
        detail = f"The whole body did not arrive within {patience_s:g} s; send it again, without pauses."
        raise ProblemError(ProblemCode.REQUEST_TIMEOUT, detail) from error


def too_large(detail: str) -> ProblemError:
    """Returns the 413."""
    return ProblemError(ProblemCode.TOO_LARGE, detail)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Returns the JSON object that a body holds.

    Raises:
        ProblemError: not the JSON we take (400), or no object (422).
    """
    try:
        value = read(raw)
    except NotStrictJsonError as error:
        raise ProblemError(ProblemCode.MALFORMED_JSON, str(error)) from error
    if not isinstance(value, dict):
        raise invalid([FieldError("", "wrong_type", "must be a JSON object")])
    return value


def validate(model: type[B], tree: dict[str, Any]) -> B:
    """Returns the body as its model.

    Raises:
        ProblemError: `invalid_fields`, one entry per mistake; no value of the body is ever quoted in it.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False)
        raise invalid(
            [
                FieldError(
                    pointer(*mistake["loc"]),
                    _CODE_OF.get(mistake["type"], "invalid"),
                    _sentence_of(mistake),
                )
                for mistake in mistakes[:_FIELDS_MAX]
            ]
        ) from error


def invalid(errors: list[FieldError], code: ProblemCode = ProblemCode.INVALID_FIELDS) -> ProblemError:
    """Returns the 422 for these fields; the detail repeats the first one, for whoever reads nothing else."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more, see errors)" if len(errors) > 1 else ""
    where = "".join(char if char.isprintable() else "\ufffd" for char in first.pointer) or "The body"
    return ProblemError(code, f"{where}: {first.detail}{more}.", errors=tuple(errors))


def pointer(*path: str | int) -> str:
    """Returns the RFC 6901 pointer of a path, each step cut to a size that can be answered with."""
    return "".join("/" + str(step)[:_FIELD_CHARS_MAX].replace("~", "~0").replace("/", "~1") for step in path)


def _check_content_type(header: str, also: tuple[str, ...]) -> None:
    media_type, _, parameters = header.partition(";")
    charset = parameters.replace(" ", "").replace('"', "").lower()
    if media_type.strip().lower() not in (_JSON, *also) or charset not in (
        "",
        "charset=utf-8",
        "charset=utf8",
    ):
        raise ProblemError(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE, "Send the body as `Content-Type: application/json`, in UTF-8."
        )


def _sentence_of(mistake: ErrorDetails) -> str:
    ours = _SENTENCE_OF.get(mistake["type"])
    if ours is not None:
        return ours.format_map(mistake.get("ctx", {}))
    sentence = mistake["msg"]
    return sentence[:1].lower() + sentence[1:].removesuffix(".")
