"""The head of an attempt, and what an endpoint may add to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.request_head import (
    OWN_HEADERS_BYTES_MAX,
    OWN_HEADERS_MAX,
    check_own_headers,
    make_head,
    prepare,
)
from operators.signing import Verdict, verify
from schemas.endpoint import Endpoint, RedirectPolicy

NOW_MS = 1_750_000_000_999
SECRET = b"s" * 32


def endpoint(
    *,
    headers: dict[str, str] | None = None,
    timeout_ms: int = 15_000,
    redirects: RedirectPolicy = RedirectPolicy.FOLLOW_ONCE,
) -> Endpoint:
    return Endpoint(
        id="ep_1",
        tenant_id="tnt_1",
        url="https://hooks.example.com/in",
        event_types=("*",),
        secrets=(),
        created_at_ms=0,
        updated_at_ms=0,
        headers=headers or {},
        timeout_ms=timeout_ms,
        redirects=redirects,
    )


def test_the_head_is_exactly_this() -> None:
    head = make_head(endpoint(headers={"X-Own": "1", "authorization": "Bearer t"}), "Hooktide/0.1", 5_000)
    request = prepare(head, (3, 7), "evt_1", b'{"a":1}', [SECRET], NOW_MS)
    names = [name for name, _ in request.headers]
    assert names == [
        "content-type",
        "user-agent",
        "accept-encoding",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "X-Own",
        "authorization",
    ]
    values = dict(request.headers)
    assert values["content-type"] == "application/json"
    assert values["user-agent"] == "Hooktide/0.1"
    assert values["accept-encoding"] == "identity"
    assert values["webhook-id"] == "evt_1"
    assert values["webhook-timestamp"] == "1750000000"
    assert verify(values, request.body, [SECRET], 1_750_000_000) is Verdict.OK
    assert request.own_headers == 2
    assert request.headers[-request.own_headers :] == (("X-Own", "1"), ("authorization", "Bearer t"))
    assert (request.token, request.pool_key, request.url) == ((3, 7), "ep_1", "https://hooks.example.com/in")


def test_a_retry_is_signed_with_its_own_time_and_keeps_its_id() -> None:
    head = make_head(endpoint(), "Hooktide/0.1", 5_000)
    first = dict(prepare(head, (0, 1), "evt_1", b"{}", [SECRET], NOW_MS).headers)
    later = dict(prepare(head, (0, 1), "evt_1", b"{}", [SECRET], NOW_MS + 7_200_000).headers)
    assert first["webhook-id"] == later["webhook-id"]
    assert later["webhook-timestamp"] == "1750007200"
    assert verify(later, b"{}", [SECRET], 1_750_007_200) is Verdict.OK


@pytest.mark.parametrize(
    ("endpoint_ms", "attempt_ms", "total_ms", "connect_ms"),
    [
        (15_000, None, 15_000, 5_000),
        (15_000, 7_000, 7_000, 5_000),
        (15_000, 60_000, 15_000, 5_000),
        (15_000, 2_000, 2_000, 2_000),
        (3_000, None, 3_000, 3_000),
    ],
)
def test_no_timeout_is_longer_than_the_attempts(
    endpoint_ms: int, attempt_ms: int | None, total_ms: int, connect_ms: int
) -> None:
    head = make_head(endpoint(timeout_ms=endpoint_ms), "Hooktide/0.1", 5_000)
    request = prepare(head, (0, 1), "evt_1", b"{}", [SECRET], NOW_MS, attempt_ms)
    assert (request.total_timeout_ms, request.connect_timeout_ms) == (total_ms, connect_ms)


def test_an_endpoint_may_forbid_redirects() -> None:
    for policy, follows in ((RedirectPolicy.FOLLOW_ONCE, True), (RedirectPolicy.FAIL, False)):
        head = make_head(endpoint(redirects=policy), "Hooktide/0.1", 5_000)
        assert prepare(head, (0, 1), "evt_1", b"{}", [SECRET], NOW_MS).follow_redirect is follows


@pytest.mark.parametrize(
    "name",
    ["Authorization", "X-Api-Key", "x_under", "Cookie", "Accept", "X-Forwarded-For", "!#$%&'*+-.^_`|~9z"],
)
@pytest.mark.parametrize("value", ["", "v", "two words", "tab\tinside", '~!"#$%&()[]{}'])
def test_ordinary_headers_are_allowed(name: str, value: str) -> None:
    assert check_own_headers({name: value}) == ()


@pytest.mark.parametrize(
    "name",
    [
        "Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Range", "Date",
        "Content-Type", "Expect", "Forwarded", "Host", "HTTP2-Settings", "Keep-Alive", "Max-Forwards",
        "Proxy-Anything", "Proxy-Authorization", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
        "User-Agent", "Via", "Webhook-Id", "Webhook-Signature", "Webhook-Timestamp", "webhook-future",
    ],
)  # fmt: skip
def test_headers_that_steer_the_connection_or_are_ours_are_refused_in_any_case(name: str) -> None:
    for spelling in (name, name.lower(), name.upper()):
        (problem,) = check_own_headers({spelling: "x"})
        assert problem.name == spelling
        assert spelling in problem.detail


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a:", ":path", "a\r\nb", "a\0", "n\u00e4me", "(a)", "a/b", "\u212aey", "a,b", 'a"'],
)
def test_a_name_must_be_a_token(name: str) -> None:
    (problem,) = check_own_headers({name: "x"})
    assert "letters, digits" in problem.detail


@pytest.mark.parametrize(
    "value",
    [
        "a\r\nx-injected: 1",
        "a\nb",
        "a\rb",
        "a\0b",
        "\x7f",
        "\x1b[2J",
        "caf\u00e9",
        "\u20ac",
        " a",
        "a ",
        "\ta",
        "\udcff",
    ],
)
def test_a_value_must_arrive_as_it_was_given(value: str) -> None:
    assert len(check_own_headers({"X-A": value})) == 1


def test_a_name_that_occurs_twice_in_different_case_is_refused() -> None:
    problems = check_own_headers({"X-A": "1", "x-a": "2"})
    assert [problem.name for problem in problems] == ["x-a"]
    assert "twice" in problems[0].detail


def test_number_and_size_are_bounded() -> None:
    assert check_own_headers({f"X-{number}": "v" for number in range(OWN_HEADERS_MAX)}) == ()
    (problem,) = check_own_headers({f"X-{number}": "v" for number in range(OWN_HEADERS_MAX + 1)})
    assert (problem.name, "33 headers" in problem.detail) == ("", True)
    assert check_own_headers({"X-A": "v" * (OWN_HEADERS_BYTES_MAX - 3)}) == ()
    (problem,) = check_own_headers({"X-A": "v" * (OWN_HEADERS_BYTES_MAX - 2)})
    assert "4097 characters" in problem.detail


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=30), max_size=5))
def test_what_is_allowed_cannot_change_the_shape_of_a_head(headers: dict[str, str]) -> None:
    if check_own_headers(headers):
        return
    wire = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")
    lines = wire.split(b"\r\n")[:-1]
    assert len(lines) == len(headers)
    parsed = {
        line.partition(b":")[0].decode(): line.partition(b":")[2].strip(b" \t").decode() for line in lines
    }
    assert parsed == headers
