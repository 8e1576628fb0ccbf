"""The redirect rule."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.redirect import FOLLOWED_STATUSES, REDIRECT_STATUSES, Refusal, next_hop
from schemas.outcome import PreparedRequest

HEADERS = (("content-type", "application/json"), ("webhook-id", "evt_1"), ("X-Api-Key", "k"), ("Cookie", "c"))


def request(
    url: str = "https://hooks.example.com/a/b?c=d", *, follow_redirect: bool = True, own_headers: int = 2
) -> PreparedRequest:
    return PreparedRequest((1, 2), "ep_1", url, HEADERS, own_headers, b"{}", 5_000, 15_000, follow_redirect)


def hop(of: PreparedRequest, location: str | None, *, status: int = 307, allow_private: bool = False) -> str:
    """Returns the next URL, or the refusal's words."""
    following = next_hop(of, status, location, allow_private=allow_private)
    return following.detail if isinstance(following, Refusal) else following.url


@pytest.mark.parametrize("status", sorted(FOLLOWED_STATUSES))
def test_all_four_statuses_keep_the_body_and_everything_else(status: int) -> None:
    following = next_hop(request(), status, "/moved", allow_private=False)
    assert following == PreparedRequest(
        (1, 2),
        "ep_1",
        "https://hooks.example.com/moved",
        HEADERS,
        2,
        b"{}",
        5_000,
        15_000,
        True,  # noqa: FBT003
    )


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/x", "https://hooks.example.com/x"),
        ("x", "https://hooks.example.com/a/x"),
        ("../x", "https://hooks.example.com/x"),
        ("../../../x", "https://hooks.example.com/x"),
        ("?q=1", "https://hooks.example.com/a/b?q=1"),
        ("//other.example.net/x", "https://other.example.net/x"),
        ("https://other.example.net", "https://other.example.net/"),
        ("https://HOOKS.example.com:443/x", "https://hooks.example.com/x"),
        ("/x#fragment", "https://hooks.example.com/x"),
        (" /x ", "https://hooks.example.com/x"),
        ("/caf\u00e9", "https://hooks.example.com/caf%C3%A9"),
    ],
)
def test_locations_are_resolved_against_the_url_that_answered(location: str, url: str) -> None:
    assert hop(request(), location) == url


@pytest.mark.parametrize(
    ("location", "is_same"),
    [
        ("/x", True),
        ("https://HOOKS.EXAMPLE.COM:443/x", True),
        ("https://other.example.net/x", False),
        ("https://example.com/x", False),
        ("https://a.hooks.example.com/x", False),
        ("https://hooks.example.com.evil.example/x", False),
    ],
)
def test_own_headers_stay_with_their_origin(location: str, is_same: bool) -> None:  # noqa: FBT001
    following = next_hop(request(), 308, location, allow_private=False)
    assert isinstance(following, PreparedRequest)
    assert (following.headers, following.own_headers) == ((HEADERS, 2) if is_same else (HEADERS[:2], 0))


def test_another_port_or_scheme_is_another_origin() -> None:
    base = request("http://127.0.0.1:8001/a")
    for location in ("http://127.0.0.1:8002/a", "https://127.0.0.1:8001/a"):
        following = next_hop(base, 307, location, allow_private=True)
        assert isinstance(following, PreparedRequest)
        assert following.headers == HEADERS[:2]


def test_without_own_headers_nothing_is_cut() -> None:
    following = next_hop(request(own_headers=0), 307, "https://other.example.net/", allow_private=False)
    assert isinstance(following, PreparedRequest)
    assert following.headers == HEADERS


@pytest.mark.parametrize("allow_private", [False, True])
def test_https_never_becomes_http(allow_private: bool) -> None:  # noqa: FBT001
    refusal = next_hop(request(), 307, "http://hooks.example.com/x", allow_private=allow_private)
    assert isinstance(refusal, Refusal)
    assert "http" in refusal.detail


def test_http_may_become_https_on_private_addresses() -> None:
    assert (
        hop(request("http://127.0.0.1:8001/a"), "https://127.0.0.1/b", allow_private=True)
        == "https://127.0.0.1/b"
    )


def test_303_asks_for_a_get_and_is_a_failure() -> None:
    assert "303" in hop(request(), "/x", status=303)


def test_a_second_hop_is_a_failure() -> None:
    refusal = next_hop(request(), 307, "/x", allow_private=False, hop_count=1)
    assert isinstance(refusal, Refusal)
    assert "at most one" in refusal.detail


@pytest.mark.parametrize("status", sorted(REDIRECT_STATUSES))
def test_an_endpoint_set_to_fail_is_never_redirected(status: int) -> None:
    assert "set to fail" in hop(request(follow_redirect=False), "/x", status=status)


@pytest.mark.parametrize(
    "location",
    [
        None, "", "http://169.254.169.254/latest", "https://127.0.0.1/", "https://[::1]/", "https://localhost/",
        "//169.254.169.254/", "https://0x7f.1/", "https://2130706433/", "https://metadata.google.internal/",
        "https://hooks.example.com:8443/", "ftp://hooks.example.com/", "javascript:alert(1)", "file:///etc/passwd",
        "https://user:pw@hooks.example.com/", "https://hooks.example.com@127.0.0.1/", "https://[", "https://",
        "//",
        "/a\r\nX: y", "/a\0", "/\\127.0.0.1", "\\\\127.0.0.1\\x", "/%zz", "/" + "a" * 3_000, "/\udcff",
        "https://x y/", "https:x", "https:/x",
    ],
)  # fmt: skip
def test_a_hostile_location_is_refused_with_a_sentence(location: str | None) -> None:
    refusal = next_hop(request(), 302, location, allow_private=False)
    assert isinstance(refusal, Refusal), refusal
    assert refusal.detail.endswith(".")


def test_other_statuses_are_not_this_modules_business() -> None:
    with pytest.raises(AssertionError):
        next_hop(request(), 304, "/x", allow_private=False)


@given(st.text(max_size=60) | st.from_regex(r"(https?:)?[/\\]{0,3}[a-z0-9.@:\[\]%#?]{0,30}", fullmatch=True))
def test_whatever_is_followed_is_https_and_lands_where_the_url_says(location: str) -> None:
    following = next_hop(request(), 307, location, allow_private=False)
    if isinstance(following, Refusal):
        return
    parts = urlsplit(following.url)
    assert parts.scheme == "https"
    assert parts.username is None
    assert parts.hostname is not None
    assert "." in parts.hostname
    assert (following.own_headers == 2) is (parts.hostname == "hooks.example.com")
