"""The closed list of problem codes: what the API answers besides success, with the HTTP status."""

from enum import StrEnum


class ProblemCode(StrEnum):
    """The `code` of an RFC 9457 answer; `type` is `urn:hooktide:problem:<code>`."""

    MALFORMED_HTTP = "malformed_http"
    MALFORMED_JSON = "malformed_json"
    BAD_HEADER = "bad_header"
    UNKNOWN_PARAMETER = "unknown_parameter"
    BAD_PARAMETER = "bad_parameter"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    IN_PROGRESS = "in_progress"
    WRONG_STATE = "wrong_state"
    VERSION_CONFLICT = "version_conflict"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INVALID_FIELDS = "invalid_fields"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    URL_NOT_ALLOWED = "url_not_allowed"
    ENDPOINT_UNREACHABLE = "endpoint_unreachable"
    RATE_LIMITED = "rate_limited"
    HEAD_TOO_LARGE = "head_too_large"
    LOG_UNAVAILABLE = "log_unavailable"
    DISK_FULL = "disk_full"
    NOT_READY = "not_ready"
    INTERNAL = "internal"


STATUS_OF = {
    ProblemCode.MALFORMED_HTTP: 400,
    ProblemCode.MALFORMED_JSON: 400,
    ProblemCode.BAD_HEADER: 400,
    ProblemCode.UNKNOWN_PARAMETER: 400,
    ProblemCode.BAD_PARAMETER: 400,
    ProblemCode.UNAUTHENTICATED: 401,
    ProblemCode.FORBIDDEN: 403,
    ProblemCode.NOT_FOUND: 404,
    ProblemCode.METHOD_NOT_ALLOWED: 405,
    ProblemCode.REQUEST_TIMEOUT: 408,
    ProblemCode.IN_PROGRESS: 409,
    ProblemCode.WRONG_STATE: 409,
    ProblemCode.VERSION_CONFLICT: 412,
    ProblemCode.TOO_LARGE: 413,
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ProblemCode.INVALID_FIELDS: 422,
    ProblemCode.IDEMPOTENCY_MISMATCH: 422,
    ProblemCode.URL_NOT_ALLOWED: 422,
    ProblemCode.ENDPOINT_UNREACHABLE: 422,
    ProblemCode.RATE_LIMITED: 429,
    ProblemCode.HEAD_TOO_LARGE: 431,
    ProblemCode.LOG_UNAVAILABLE: 503,
    ProblemCode.DISK_FULL: 503,
    ProblemCode.NOT_READY: 503,
    ProblemCode.INTERNAL: 500,
}
