"""What the sender is asked (`PreparedRequest`) and what an attempt came to (`Outcome`).

An endpoint that answers 500 is a value here, never an exception. Blame is part of the value: what our side
caused neither counts as an attempt nor feeds the breaker.
"""

from enum import StrEnum

from msgspec import Struct


class ErrorCode(StrEnum):
    """Why an attempt got no complete answer; a closed list, shown to customers."""

    NONE = ""
    TIMEOUT = "timeout"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECT_REFUSED = "connect_refused"
    CONNECT_FAILED = "connect_failed"
    CONNECTION_RESET = "connection_reset"
    TLS_FAILED = "tls_failed"
    TLS_CERTIFICATE = "tls_certificate"
    DNS_NOT_FOUND = "dns_not_found"
    DNS_TIMEOUT = "dns_timeout"
    DNS_FAILURE = "dns_failure"
    PROTOCOL_ERROR = "protocol_error"
    RESPONSE_TOO_LARGE = "response_too_large"
    URL_NOT_ALLOWED = "url_not_allowed"
    REDIRECT_REFUSED = "redirect_refused"
    OUR_SHUTDOWN = "our_shutdown"
    OUR_FAULT = "our_fault"

    @property
    def is_ours(self) -> bool:
        """Whether our side caused it: such a try is no attempt."""
        return self in (ErrorCode.OUR_SHUTDOWN, ErrorCode.OUR_FAULT)


class PreparedRequest(Struct, frozen=True, gc=False):
    """One signed POST, ready to be sent.

    Attributes:
        token: names the delivery for whoever submitted it; comes back untouched in the outcome.
        pool_key: connections are shared only within it (the endpoint's id).
        url: normalised, see `operators.target_url`.
        headers: in wire order, as (name, value); complete but for Host and Content-Length.
        own_headers: how many of the last `headers` are the endpoint's own: they never go to another origin.
        total_timeout_ms: connect to last byte, a followed redirect included.
        follow_redirect: whether one hop may be followed.
    """

    token: tuple[int, int]
    pool_key: str
    url: str
    headers: tuple[tuple[str, str], ...]
    own_headers: int
    body: bytes
    connect_timeout_ms: int
    total_timeout_ms: int
    follow_redirect: bool


class Hop(Struct, frozen=True, array_like=True):
    """A redirect that was answered on the way: where it was asked, what it answered, where it pointed."""

    url: str
    status: int
    location: str


class Outcome(Struct, frozen=True, kw_only=True, gc=False):
    """What came of one `PreparedRequest`.

    Attributes:
        status: of the final response; None when there was none. A status counts even when the body was cut.
        error_code: why there is no (usable) answer; empty with a status that decides.
        headers: the selected response headers, names in lower case.
        body: the first 4 KiB of the response body.
        connect_us: DNS, TCP and TLS together; 0 on a reused connection.
        first_byte_us, total_us: from the start of the attempt.
        peer: `address:port` really dialled.
        requests_sent: 1, plus a followed redirect, plus a re-send on a dead reused connection.
    """

    token: tuple[int, int]
    started_at_ms: int
    finished_at_ms: int
    status: int | None = None
    error_code: ErrorCode = ErrorCode.NONE
    error_detail: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    is_body_truncated: bool = False
    connect_us: int = 0
    first_byte_us: int = 0
    total_us: int = 0
    peer: str = ""
    is_reused_connection: bool = False
    requests_sent: int = 1
    hops: tuple[Hop, ...] = ()
