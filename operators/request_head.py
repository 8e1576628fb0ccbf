"""The head of an attempt: which headers go out, in which order, and which ones an endpoint may add.

Everything that does not change between two attempts of an endpoint (`RequestHead`) is made once and kept by
the caller, keyed by endpoint id and revision. What is left per attempt is the signature, one struct and one
tuple: about 4 us for a body of 1 KB, of which 3 are the signature.

An endpoint's own headers are an allow-rule, not a filter: what we would have to drop or change is refused
when the endpoint is written, with a sentence for the customer. Refused are the headers that steer the
connection (hop-by-hop; two parties that disagree about them are how requests are smuggled), the ones that
describe the body or are ours, and everything that a proxy on the way might read in two ways.

Source: RFC 9110 sections 5.5, 5.6.2, 7.6.1; RFC 9112 sections 6, 7; RFC 6265 is not ours to enforce.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from operators.signing import sign
from schemas.endpoint import Endpoint, RedirectPolicy
from schemas.outcome import PreparedRequest

OWN_HEADERS_MAX: Final = 32
OWN_HEADERS_BYTES_MAX: Final = 4_096
"""Names and values together; common servers take 8 KiB for the whole head."""

_TOKEN_CHARS: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_VALUE_CHARS: Final = frozenset(map(chr, range(0x20, 0x7F))) | {"\t"}

_CONNECTION: Final = "it steers the connection, which is between two machines, not between you and us"
_FRAMING: Final = "it says where the body ends or how it is encoded, which only the sender knows"
_OURS: Final = "Hooktide sets it itself"
_REFUSED_NAMES: Final = {
    "connection": _CONNECTION,
    "expect": _CONNECTION,
    "forwarded": "it says where a request came from, and only a proxy knows",
    "http2-settings": _CONNECTION,
    "keep-alive": _CONNECTION,
    "max-forwards": _CONNECTION,
    "te": _CONNECTION,
    "trailer": _CONNECTION,
    "upgrade": _CONNECTION,
    "via": "it says where a request came from, and only a proxy knows",
    "content-encoding": _FRAMING,
    "content-length": _FRAMING,
    "content-range": _FRAMING,
    "transfer-encoding": _FRAMING,
    "accept-encoding": _OURS,
    "content-type": _OURS,
    "date": _OURS,
    "host": "it follows from the URL; write the name you want there",
    "user-agent": _OURS,
}
_REFUSED_PREFIXES: Final = {
    "proxy-": _CONNECTION,
    "webhook-": "the name belongs to Standard Webhooks, and verifiers rely on it",
}


class HeaderProblem(Struct, frozen=True):
    """Why an own header is refused: its name as given (empty: all of them), a sentence for the customer."""

    name: str
    detail: str


class RequestHead(Struct, frozen=True):
    """What every attempt to one endpoint has in common.

    Attributes:
        first: headers that stand before the three of Standard Webhooks.
        own: the endpoint's own headers, as it gave them; they stand last.
    """

    pool_key: str
    url: str
    first: tuple[tuple[str, str], ...]
    own: tuple[tuple[str, str], ...]
    connect_timeout_ms: int
    total_timeout_ms: int
    follow_redirect: bool


def make_head(endpoint: Endpoint, user_agent: str, connect_timeout_ms: int) -> RequestHead:
    """Makes the unchanging part once per endpoint revision.

    Args:
        connect_timeout_ms: DNS, TCP and TLS together; never more than the endpoint's own timeout.
    """
    return RequestHead(
        pool_key=endpoint.id,
        url=endpoint.url,
        first=(
            ("content-type", "application/json"),
            ("user-agent", user_agent),
            ("accept-encoding", "identity"),
        ),
        own=tuple(endpoint.headers.items()),
        connect_timeout_ms=min(connect_timeout_ms, endpoint.timeout_ms),
        total_timeout_ms=endpoint.timeout_ms,
        follow_redirect=endpoint.redirects is RedirectPolicy.FOLLOW_ONCE,
    )


def prepare(
    head: RequestHead,
    token: tuple[int, int],
    event_id: str,
    body: bytes,
    secrets: Sequence[bytes],
    now_ms: int,
    total_timeout_ms: int | None = None,
) -> PreparedRequest:
    """Signs one attempt.

    Args:
        head: of the endpoint, see `make_head`.
        token: comes back in the outcome.
        event_id: becomes `webhook-id`, the same in every copy.
        secrets: the unexpired ones, decoded, newest first.
        now_ms: the attempt's time; its seconds are signed.
        total_timeout_ms: of this attempt, when health has shortened it; never more than the endpoint's.
    """
    timestamp_s = now_ms // 1_000
    total_ms = (
        head.total_timeout_ms if total_timeout_ms is None else min(total_timeout_ms, head.total_timeout_ms)
    )
    return PreparedRequest(
        token,
        head.pool_key,
        head.url,
        (
            *head.first,
            ("webhook-id", event_id),
            ("webhook-timestamp", str(timestamp_s)),
            ("webhook-signature", sign(event_id, timestamp_s, body, secrets)),
            *head.own,
        ),
        len(head.own),
        body,
        min(head.connect_timeout_ms, total_ms),
        total_ms,
        head.follow_redirect,
    )


def check_own_headers(headers: Mapping[str, str]) -> tuple[HeaderProblem, ...]:
    """Says what is wrong with the headers an endpoint wants added; empty when nothing is."""
    problems: list[HeaderProblem] = []
    if len(headers) > OWN_HEADERS_MAX:
        problems.append(
            HeaderProblem("", f"There are {len(headers)} headers; at most {OWN_HEADERS_MAX} are allowed.")
        )
    size_bytes = sum(len(name) + len(value) for name, value in headers.items())
    if size_bytes > OWN_HEADERS_BYTES_MAX:
        problems.append(
            HeaderProblem(
                "",
                f"Names and values have {size_bytes} characters; shorten them to {OWN_HEADERS_BYTES_MAX}.",
            )
        )
    seen: set[str] = set()
    for name, value in headers.items():
        lower = name.lower()
        detail = _name_problem(name, lower) or _value_problem(value)
        if lower in seen:
            detail = "The name occurs twice (case does not count); give it once."
        seen.add(lower)
        if detail:
            problems.append(HeaderProblem(name, detail))
    return tuple(problems)


def _name_problem(name: str, lower: str) -> str:
    """Returns a sentence, empty when the name is fine."""
    # RFC 9110 section 5.6.2: token = 1*tchar. `lower` may fold other scripts into ASCII (the Kelvin sign).
    if not (name and name.isascii() and _TOKEN_CHARS.issuperset(lower)):
        return "The name may hold letters, digits and !#$%&'*+-.^_`|~ only, and at least one of them."
    reason = _REFUSED_NAMES.get(lower)
    if reason is None:
        reason = next((why for prefix, why in _REFUSED_PREFIXES.items() if lower.startswith(prefix)), None)
    return "" if reason is None else f"{name} cannot be set, so leave it out: {reason}."


def _value_problem(value: str) -> str:
    """Returns a sentence, empty when the value is fine."""
    if not _VALUE_CHARS.issuperset(value):
        return "The value may hold printable ASCII characters, spaces and tabs only; encode anything else."
    # RFC 9110 section 5.5: receivers strip it, so it would not arrive as given.
    if value != value.strip(" \t"):
        return "The value starts or ends with a space or tab, which receivers remove; leave it out."
    return ""
