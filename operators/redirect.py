"""The redirect rule: one hop, POST stays POST, the same body, and nothing secret goes to another origin.

RFC 9110 lets a client turn POST into GET on 301 and 302; for a webhook that would deliver nothing and
answer 200, so the method and body stay on all four statuses. 303 asks for a GET, so it is a failure. One
hop is enough for a moved receiver; a chain is either a loop or somebody using us to reach something.

The signature goes along: the receiver behind the redirect must be able to verify it, and it proves nothing
beyond this one body. The endpoint's own headers often hold credentials, and stay with the origin they were
given for.

Rejected: the HTTP client's own redirects (they change the method, follow many hops, and are checked by
nobody).

Source: RFC 9110 section 15.4; the Fetch standard, "HTTP-redirect fetch" (headers dropped on another origin).
"""

from typing import Final
from urllib.parse import urljoin

from msgspec import Struct, structs

from operators.target_url import DEFAULT_PORTS, TargetUrl, UrlRefusal, check_target_url
from schemas.outcome import PreparedRequest

HOPS_MAX: Final = 1
FOLLOWED_STATUSES: Final = frozenset({301, 302, 307, 308})
REDIRECT_STATUSES: Final = FOLLOWED_STATUSES | {303}
"""The statuses this module decides on; every other 3xx is an answer like any other."""


class Refusal(Struct, frozen=True):
    """A redirect that is not followed, with a sentence for the customer."""

    detail: str


def next_hop(
    request: PreparedRequest,
    status: int,
    location: str | None,
    *,
    allow_private: bool,
    ports: frozenset[int] = DEFAULT_PORTS,
    hop_count: int = 0,
) -> PreparedRequest | Refusal:
    """Decides what a redirect leads to.

    Args:
        request: the one that was answered; its URL is in normal form.
        status: of `REDIRECT_STATUSES`.
        location: as received; None when there was none.
        allow_private, ports: as for `check_target_url`.
        hop_count: redirects already followed in this attempt.
    """
    assert status in REDIRECT_STATUSES, status
    refusal = _refuse_before_looking(request, status, location, hop_count)
    if refusal:
        return Refusal(refusal)
    assert location is not None
    try:
        joined = _resolve(request.url, location.strip(" \t").partition("#")[0])
    except ValueError as error:
        return Refusal(f"The redirect's location cannot be read: {error}.")
    target = check_target_url(joined, allow_private=allow_private, ports=ports)
    if isinstance(target, UrlRefusal):
        return Refusal(f"The redirect leads to a URL that is not allowed. {target.detail}")
    if request.url.startswith("https:") and target.scheme != "https":
        return Refusal("The redirect leads from https to http; a webhook is never sent in clear after that.")
    headers, own_headers = request.headers, request.own_headers
    if own_headers and not _is_same_origin(request.url, target):
        headers, own_headers = headers[:-own_headers], 0
    return structs.replace(request, url=target.url, headers=headers, own_headers=own_headers)


def _refuse_before_looking(
    request: PreparedRequest, status: int, location: str | None, hop_count: int
) -> str:
    """Returns why the redirect is refused whatever it leads to; empty when it is not."""
    if not request.follow_redirect:
        return f"The endpoint answered {status}, and it is set to fail on redirects; correct its URL."
    if status not in FOLLOWED_STATUSES:
        return (
            f"The endpoint answered {status}, which asks for a GET; answer 2xx, or redirect with 307 or 308."
        )
    if hop_count >= HOPS_MAX:
        return "The redirect led to another redirect; at most one is followed. Set the final URL."
    if not location:
        return f"The endpoint answered {status} without a location."
    if any(char < " " or char == "\x7f" for char in location):
        return "The redirect's location contains control characters."
    return ""


def _resolve(url: str, location: str) -> str:
    """Returns an absolute URL, unjudged.

    Only a path or query goes through urljoin, which takes care of dots; with what names a scheme or host it
    is lenient (`https://` and `https:x` mean the present host to it). Of the two parsers only ours decides.
    """
    if location.startswith("//"):
        return url.partition(":")[0] + ":" + location
    if location.lower().startswith(("https:", "http:")):
        return location
    return urljoin(url, location)


def _is_same_origin(url: str, target: TargetUrl) -> bool:
    """Compares scheme, host and port (RFC 6454 section 5); both URLs are in normal form, so text decides."""
    origin_end = url.index("/", url.index("://") + 3)
    target_end = target.url.index("/", target.url.index("://") + 3)
    return url[:origin_end] == target.url[:target_end]
