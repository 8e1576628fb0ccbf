"""The words that the fuzzer speaks: bodies that are good, and pieces of every kind that have broken parsers.

URLs lead to this machine only: hosts are literals of loopback or are refused before anybody is asked, and
the one URL that stands in text which is mutated byte by byte has no port.
"""

from base64 import urlsafe_b64encode
from typing import Any

Route = tuple[str, str]

COLLECTED_TENANTS = ("fuzz-a", "fuzz-b")
"""Events of these go to a collector, so their delivery can be checked."""
OTHER_TENANT = "fuzz-e"

_RETRY = {"delays_seconds": [5, 300], "window_seconds": 3600}
_ENDPOINTS = "/api/v1/webhooks/endpoints"
_ONE = _ENDPOINTS + "/{endpoint_id}"
BODIES: dict[Route, dict[str, Any]] = {
    ("POST", "/api/v1/events"): {
        "tenant_id": "fuzz-a",
        "type": "order.created",
        "data": {"n": 1},
        "occurred_at": "2026-01-31T12:00:00Z",
    },
    ("POST", _ENDPOINTS): {
        "tenant_id": OTHER_TENANT,
        "url": "http://127.0.0.1/hook",
        "event_types": ["order.*"],
        "verification": "skip",
        "headers": {"X-Api-Key": "k"},
        "retry": _RETRY,
        "timeout_ms": 500,
        "description": "fuzzed",
    },
    ("PATCH", _ONE): {"description": "changed", "headers": {"X-A": "b"}, "retry": _RETRY, "timeout_ms": 600},
    ("POST", _ONE + "/secret/rotate"): {"overlap_seconds": 60},
    ("POST", _ONE + "/test"): {"type": "endpoint.test"},
}
FIELDS = (
    *("tenant_id", "type", "data", "url", "event_types", "headers", "retry", "timeout_ms", "secret"),
    *("occurred_at", "endpoint_ids", "verification", "redirects", "client_errors", "api_version", "id", ""),
    *("status", "description", "overlap_seconds", "a/b~c", "\u0000", "x" * 300),
)
JSON_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.1, -0.0, 1e308, 5e-324),
    *(
        "",
        " ",
        "*",
        "a",
        "order.*",
        "a.b.c",
        "skip",
        "sync",
        "async",
        "fail",
        "retry",
        "1",
        "\u0000",
        "\ud800",
    ),
    *(
        "x" * 129,
        "x" * 600,
        "y" * 70_000,
        "\u00fc\U0001f600",
        "a\r\nX-B: c",
        "********",
        "ep_nobody",
        "\u202e",
    ),
    *("http://127.0.0.1/", "http://127.0.0.1:1/", "http://[::1]/", "http://169.254.169.254/", "https://"),
    *(
        "2026-02-30T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "0000-00-00T00:00:00+99:99",
        "whsec_",
        "whsec_" + "A" * 44,
    ),
    *([], {}, [[]], [{}], [None], ["*"], ["*"] * 101, [1] * 200, {"a": {"b": {"c": [1, "x"]}}}, {"": ""}),
    *({"X-A": None}, {"Host": "x"}, {"X": "\u212a"}, {"delays_seconds": [1e9]}, {"base_seconds": 1}),
    *({"delays_seconds": [0.1] * 101}, {"base_seconds": 1e-9, "max_seconds": 1e99}, {"n": 10**30}),
)
PIECES = (
    *(
        b"NaN",
        b"Infinity",
        b"1e400",
        b"\\ud800",
        b"\\u0000",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b'"',
        b"}",
        b"[",
    ),
    *(
        b"[" * 200,
        b'{"a":' * 200,
        b"9" * 5_000,
        b" " * 5_000,
        b"/*x*/",
        b"\\",
        b'"a":1,"a":1,',
        b"x" * 330_000,
    ),
)
PATH_PIECES = (
    *(
        "ep_nobody",
        "evt_nobody",
        "dlv_nobody",
        "%00",
        "%ff",
        "..",
        "%2e%2e%2f",
        "a%20b",
        "%F0%9F%98%80",
        "'%22;--",
    ),
    *(
        "x" * 200,
        "x" * 3_000,
        "{endpoint_id}",
        "%",
        "%zz",
        "*",
        "-",
        "evt_" + "0" * 26,
        "dlv_" + "z" * 26,
        "%0d%0a",
    ),
)
PARAMETERS = ("tenant_id", "limit", "cursor", "status", "event_type", "type", "url", "state", "x", "", "%00")
VALUES = (
    *(
        "",
        "1",
        "200",
        "201",
        "0",
        "-1",
        "1e3",
        "%D9%A3",
        "fuzz-a",
        "active",
        "order.created",
        "%00",
        "%ff",
        "a%20b",
    ),
    *("x" * 2_000, "abc", "%F0%9F%98%80", "[]", "'", "*", "2026-01-31T12:00:00Z", "\u00fc"),
    *(
        urlsafe_b64encode(raw).decode()
        for raw in (b"", b"\xc1", b"\x92\xc4\x06aaaaaa\xa1b", b"\x92\xc0\xc0", b"\xff" * 9)
    ),
)
HEADERS = {
    "Idempotency-Key": ("k1", "k2", '"k1"', '"', "", "a b", "\u00fc", "x" * 300, "retry-evt_" + "0" * 26),
    "If-Match": ("*", '""', '"a", "b"', 'W/"a"', "x", "", '"' * 900, ", " * 400),
    "X-Request-Id": ("a", "", "a b", "x" * 100, "\u00fc"),
    "Content-Encoding": ("gzip", "identity", "br", ""),
    "Content-Type": (
        "text/plain",
        "application/json; charset=utf-16",
        ";",
        "application/merge-patch+json",
        "",
    ),
    "Accept": ("text/html", "*/*", "application/xml"),
    "Expect": ("100-continue", "200-ok", "\udcff"),
    "Upgrade": ("websocket", "h2c"),
    "Cookie": ("a=b", "=;;="),
    "Range": ("bytes=0-1",),
    "Authorization": ("Bearer ", "Basic x", "Bearer \u00fc"),
    "X-Http-Method-Override": ("DELETE",),
    "X-Long": ("x" * 8_000, "x" * 9_000),
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
LENGTHS = (
    *(b"Content-Length: 1", b"Content-Length: -", b"Content-Length: +", b"Content-Length: 0x", b"X: "),
    *(b"Content-Length: 5\r\nContent-Length: ", b"Transfer-Encoding: chunked\r\nContent-Length: "),
)
VERSIONS = (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.1\x00", b"http/1.1", b"")
EXTRA_LINES = (
    b" folded",
    b"X A: b",
    b": x",
    b"X-A\x00: b",
    b"X-A: \xff\x80",
    b"X" * 9_000,
    b"X-A: b\r\n" * 200,
)
