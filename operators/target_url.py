"""The rules for an endpoint's URL: what it may be, and its one normal form.

Checked when an endpoint is written (a refusal is the customer's 422) and again by the sender for each URL
and redirect hop (about 10 us, so it keeps the answer per URL). It parses by itself, by hand: `urlsplit`
silently drops tabs and newlines, accepts user-info and leaves hosts as they are, and two parsers that
disagree about where the host ends are how such guards are passed. So what is unusual is refused, not
interpreted (backslashes, user-info, percent-encoded hosts, control characters), and the rest is brought to
one spelling before it is judged. The normal form is ASCII, is checked by this module to itself, and is the
only one that is dialled.

Hosts are read as WHATWG's URL standard does, because receivers' and proxies' stacks do: UTS 46 mapping
first (full-width digits, ideographic full stops, letters in circles), then a last label that is a number
makes the host an IPv4 address in any of inet_aton's spellings, then the verdict of `address_rules`. Names
are only judged by what they say on their face; what they resolve to is judged at the dial.

Plain http and odd ports are for private addresses in development. Where a name leads is not known here, so
the permission is conditional: `TargetUrl.needs_private` goes with the URL, and the dial guard holds it
against the address really dialled.

Source: RFC 3986, RFC 5890 to 5892, UTS 46, url.spec.whatwg.org section 3.5.
"""

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import idna
from msgspec import Struct

from operators.address_rules import judge_address

URL_CHARS_MAX: Final = 2048
"""Of the normal form. Precedents: browsers' and CDNs' common limit, Stripe 2,083, Shopify 2,048."""
DEFAULT_PORTS: Final = frozenset({80, 443})
URL_NOT_ALLOWED: Final = "url_not_allowed"

_DEFAULT_PORT_OF: Final = {"https": 443, "http": 80}

_METADATA_NAMES: Final = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.azure.internal",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.tencentyun.com",
    },
)
"""Never, not even with `allow_private`; the addresses behind them are forbidden too, this says it earlier."""

_LOCAL_SUFFIXES: Final = (
    "corp",
    "home",
    "home.arpa",
    "internal",
    "intranet",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "svc",
)
"""Names that mean something only inside a network (RFC 6761, 6762, 8375; ICANN 2018, 2024; Kubernetes)."""

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNSAFE_IN_TARGET: Final = re.compile(r"[^!#-;=?-\[\]_a-z~]")
"""What RFC 3986 has no place for in a path or query (quote, <, >, ^, `, {, |, }, non-ASCII); sent encoded."""
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")


class TargetUrl(Struct, frozen=True):
    """A URL that may be tried.

    Attributes:
        url: the normal form; checking it again gives the same value.
        host: lower case ASCII, without brackets or trailing dot; for a literal the canonical address.
        target: path and query as sent, from `/`.
        is_literal: the host is an address, so there is nothing to resolve.
        needs_private: only a private address may be dialled for it (plain http, or an unlisted port).
    """

    url: str
    scheme: str
    host: str
    port: int
    target: str
    is_literal: bool
    needs_private: bool


class UrlRefusal(Struct, frozen=True):
    """A URL that is refused: `detail` is a sentence for the customer that says what to do."""

    detail: str
    code: str = URL_NOT_ALLOWED


class _RefusedError(Exception):
    """Carries a refusal out of the parsing steps below; never leaves this module."""


def check_target_url(
    url: str,
    *,
    allow_private: bool,
    ports: frozenset[int] = DEFAULT_PORTS,
) -> TargetUrl | UrlRefusal:
    """Parses, normalises and judges a URL.

    Args:
        allow_private: development: also private hosts, and for those plain http and any port.
        ports: allowed without being private; the operator may add to 80 and 443.
    """
    try:
        return _parse(url, allow_private=allow_private, ports=ports)
    except _RefusedError as refusal:
        return UrlRefusal(detail=str(refusal))


def _parse(url: str, *, allow_private: bool, ports: frozenset[int]) -> TargetUrl:
    """Raises `_RefusedError`; the order of the checks is the order in which a person would mend the URL."""
    _check_characters(url)
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _DEFAULT_PORT_OF:
        raise _RefusedError("The URL must start with https://.")
    if scheme == "http" and not allow_private:
        raise _RefusedError("Plain http is refused; use https.")
    authority, target = _split_authority(rest)
    host_text, port = _split_port(authority, _DEFAULT_PORT_OF[scheme])
    host, is_literal = _normalise_host(host_text)
    needs_private = scheme == "http" or port not in ports
    if port not in ports and not allow_private:
        listed = ", ".join(str(known) for known in sorted(ports))
        raise _RefusedError(f"Port {port} is refused; use one of {listed}.")
    if is_literal:
        _check_literal(host, allow_private=allow_private, needs_private=needs_private)
    else:
        _check_name(host, allow_private=allow_private)
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = "" if port == _DEFAULT_PORT_OF[scheme] else f":{port}"
    normal = f"{scheme}://{shown_host}{shown_port}{target}"
    if len(normal) > URL_CHARS_MAX:
        raise _RefusedError(
            f"The URL has {len(normal)} characters once encoded; shorten it to {URL_CHARS_MAX}."
        )
    return TargetUrl(
        url=normal,
        scheme=scheme,
        host=host,
        port=port,
        target=target,
        is_literal=is_literal,
        needs_private=needs_private,
    )


def _check_characters(url: str) -> None:
    if len(url) > URL_CHARS_MAX:
        raise _RefusedError(f"The URL has {len(url)} characters; shorten it to {URL_CHARS_MAX}.")
    # `isprintable` is false for control and format characters, surrogates and every space but U+0020.
    if " " in url or not url.isprintable():
        position = next(at for at, char in enumerate(url) if char == " " or not char.isprintable())
        raise _RefusedError(
            f"Character {position + 1} of the URL (U+{ord(url[position]):04X}) is a space, a control or an"
            " invisible character; remove it, or percent-encode it in the path or query.",
        )
    if "\\" in url:
        raise _RefusedError("The URL contains a backslash; use / or write %5C.")
    if "#" in url:
        raise _RefusedError("The URL contains a fragment (#), which is never sent; remove it, or write %23.")


def _split_authority(rest: str) -> tuple[str, str]:
    """Splits behind the host: everything from the first `/` or `?` on is the target."""
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, target = rest[:end], rest[end:]
    if "@" in authority:
        raise _RefusedError(
            "The URL contains a user name or password before the host; use a header of the endpoint."
        )
    if "%" in authority:
        raise _RefusedError("The host is percent-encoded or has a zone id; write the plain name or address.")
    if _BAD_PERCENT.search(target):
        raise _RefusedError("The URL contains a % that is not followed by two hexadecimal digits; write %25.")
    if not target.startswith("/"):
        target = "/" + target
    return authority, _UNSAFE_IN_TARGET.sub(_percent_encode, target)


def _percent_encode(match: re.Match[str]) -> str:
    return "".join(f"%{octet:02X}" for octet in match[0].encode())


def _split_port(authority: str, default_port: int) -> tuple[str, int]:
    """Returns the host as written (a v6 literal keeps its brackets) and the port."""
    if authority.startswith("["):
        host, bracket, tail = authority.partition("]")
        if not bracket:
            raise _RefusedError(
                "The host starts with [ but has no ]; write IPv6 addresses as [2606:4700::1111]."
            )
        host += bracket
    else:
        host, colon, tail = authority.partition(":")
        tail = colon + tail
    if not tail:
        return host, default_port
    digits = tail[1:]
    if tail[0] != ":" or not (digits.isascii() and digits.isdigit() and len(digits) <= 5):
        raise _RefusedError(
            "What follows the host is no port; write IPv6 addresses in brackets, and ports in digits."
        )
    if not 0 < int(digits) < 65_536:
        raise _RefusedError(f"Port {digits} does not exist; use 443.")
    return host, int(digits)


def _normalise_host(text: str) -> tuple[str, bool]:
    """Returns the host in its one spelling, and whether it is an address."""
    if not text:
        raise _RefusedError("The URL has no host; write https://example.com/path.")
    if text.startswith("["):
        return _normalise_v6(text[1:-1]), True
    mapped = text.lower() if text.isascii() else _map_international(text)
    labels = mapped.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _normalise_v4(labels), True
    name = ".".join(labels)
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _RefusedError(
            f"{text[:80]!r} is no domain name; write labels of 1 to 63 letters, digits and hyphens.",
        )
    return name, False


def _map_international(text: str) -> str:
    """Maps what looks like ASCII to it (UTS 46), and what is left to its xn-- form."""
    try:
        # std3_rules off: `_LABEL` refuses what it would, and lets the underscores of real names pass.
        mapped = idna.uts46_remap(text, std3_rules=False)
        return mapped if mapped.isascii() else idna.encode(mapped).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError) as error:
        raise _RefusedError(f"{text[:80]!r} is no international domain name; write its xn-- form.") from error


def _normalise_v4(labels: list[str]) -> str:
    """Reads inet_aton's spellings: 1 to 4 numbers, decimal, octal or hex; the last one fills the rest."""
    refusal = (
        f"{'.'.join(labels)[:80]!r} ends in a number but is no IPv4 address; write four decimal numbers."
    )
    if len(labels) > 4 or not all(_NUMBER.fullmatch(label) for label in labels):
        raise _RefusedError(refusal)
    try:
        numbers = [_read_number(label) for label in labels]
    except ValueError as error:
        raise _RefusedError(refusal) from error
    *head, last = numbers
    if any(number > 255 for number in head) or last >= 256 ** (4 - len(head)):
        raise _RefusedError(refusal)
    value = last
    for index, number in enumerate(head):
        value += number << (8 * (3 - index))
    return str(IPv4Address(value))


def _read_number(label: str) -> int:
    """Raises ValueError for `08` and for digits beyond any address."""
    if len(label) > 40:
        raise ValueError(label)
    if label[:2] in ("0x", "0X"):
        return int(label[2:] or "0", 16)
    return int(label, 8) if label[0] == "0" else int(label)


def _normalise_v6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except ValueError as error:
        raise _RefusedError(f"[{text[:80]}] is no IPv6 address; write it like [2606:4700::1111].") from error
    # The kernel dials the IPv4 address inside, so that is what the URL says from here on.
    return str(address if address.ipv4_mapped is None else address.ipv4_mapped)


def _check_literal(host: str, *, allow_private: bool, needs_private: bool) -> None:
    verdict = judge_address(host, allow_private=allow_private)
    if not verdict.allowed:
        raise _RefusedError(verdict.reason)
    if needs_private and not verdict.is_private:
        raise _RefusedError(
            f"{host} is a public address: plain http and unlisted ports are for private ones; use https."
        )


def _check_name(host: str, *, allow_private: bool) -> None:
    if host in _METADATA_NAMES:
        raise _RefusedError(f"{host} is a cloud's metadata service; use a public name.")
    if allow_private:
        return
    if "." not in host and host not in _LOCAL_SUFFIXES:
        raise _RefusedError(
            f"{host} has no dot, so it is a name inside some network; write a public domain name."
        )
    for suffix in _LOCAL_SUFFIXES:
        if host == suffix or host.endswith("." + suffix):
            raise _RefusedError(
                f"{host} is a name inside a private network (.{suffix}); use a public name, or start with"
                " --allow-private on a development machine."
            )
