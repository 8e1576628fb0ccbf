"""Spellings of URLs: what is refused, what is allowed in which normal form, and that no parser disagrees.

Characters that look like others are written as escapes, so that a reader sees which one it is.
"""

import socket
from ipaddress import IPv4Address
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from operators.address_rules import judge_address
from operators.target_url import URL_CHARS_MAX, TargetUrl, UrlRefusal, check_target_url

FULL_127 = "\uff11\uff12\uff17"

# Every one leads to a private or forbidden host, or is no URL we send to. (url, a part of the sentence)
REFUSED = (
    # scheme
    ("", "https://"),
    ("example.com", "https://"),
    ("//example.com/", "https://"),
    ("https:example.com", "https://"),
    ("https:/example.com", "https://"),
    ("http://example.com/", "use https"),
    ("ftp://example.com/", "https://"),
    ("file:///etc/passwd", "https://"),
    ("gopher://127.0.0.1:6379/_x", "https://"),
    ("javascript://example.com/", "https://"),
    ("unix:///var/run/docker.sock", "https://"),
    ("http\u017f://example.com/", "https://"),
    # host missing or malformed
    ("https://", "no host"),
    ("https:///path", "no host"),
    ("https://?x", "no host"),
    ("https://:443/", "no host"),
    ("https://./", "no domain name"),
    ("https://example..com/", "no domain name"),
    ("https://.example.com/", "no domain name"),
    ("https://example.com../", "no domain name"),
    ("https://-example.com/", "no domain name"),
    ("https://exa$mple.com/", "no domain name"),
    ("https://exa,mple.com/", "no domain name"),
    ("https://exa]mple.com/", "no domain name"),
    ("https://" + "a" * 64 + ".com/", "no domain name"),
    ("https://" + "a." * 130 + "com/", "no domain name"),
    # where the host ends
    ("https://user@example.com/", "user name"),
    ("https://user:secret@example.com/", "user name"),
    ("https://example.com@127.0.0.1/", "user name"),
    ("https://@example.com/", "user name"),
    ("https://example.com\\@127.0.0.1/", "backslash"),
    ("https:\\\\127.0.0.1\\", "backslash"),
    ("https://127.0.0.1#@example.com/", "fragment"),
    ("https://example.com/#x", "fragment"),
    ("https://example.com/#", "fragment"),
    ("https://example.com%00.evil.test/", "percent-encoded"),
    ("https://127%2e0.0.1/", "percent-encoded"),
    ("https://%31%32%37.0.0.1/", "percent-encoded"),
    ("https://example.com%2f@127.0.0.1/", "user name"),
    ("https://example.com\u2100.test/", "no domain name"),  # maps to a/c
    ("https://example.com\uff0f.test/", "no domain name"),  # full-width solidus
    ("https://user\uff20example.com/", "no domain name"),  # full-width at
    ("https://example.com\uff1a8080/", "no domain name"),  # full-width colon
    ("https://example.com\uff03x/", "no domain name"),  # full-width number sign
    # characters
    ("https://example.com/a b", "space"),
    (" https://example.com/", "space"),
    ("https://example.com/\n", "control"),
    ("https://example.com/\r\nX-Injected: 1", "control"),
    ("https://exam\tple.com/", "control"),
    ("https://example.com/\x00", "control"),
    ("https://example.com/\x7f", "control"),
    ("https://example.com/\u0085", "control"),
    ("https://example.com/\u00a0", "space"),
    ("https://example.com/\u2028", "control"),
    ("https://exam\u200bple.com/", "invisible"),
    ("https://127.0\u00ad.0.1/", "invisible"),
    ("https://example.com/\ud800", "control"),
    ("https://example.com/%", "%25"),
    ("https://example.com/%zz", "%25"),
    # ports
    ("https://example.com:8443/", "Port 8443"),
    ("https://example.com:22/", "Port 22"),
    ("https://example.com:0/", "does not exist"),
    ("https://example.com:65536/", "does not exist"),
    ("https://example.com:99999/", "does not exist"),
    ("https://example.com:/", "no port"),
    ("https://example.com:-1/", "no port"),
    ("https://example.com:+443/", "no port"),
    ("https://example.com:4_4_3/", "no port"),
    ("https://example.com:443:443/", "no port"),
    ("https://example.com:000443/", "no port"),
    ("https://example.com:\uff14\uff14\uff13/", "no port"),
    # loopback in every spelling
    ("https://127.0.0.1/", "loopback"),
    ("https://127.0.0.1:443/", "loopback"),
    ("https://127.1/", "loopback"),
    ("https://127.0.1/", "loopback"),
    ("https://127.0.0.1./", "loopback"),
    ("https://127.000.000.001/", "loopback"),
    ("https://2130706433/", "loopback"),
    ("https://017700000001/", "loopback"),
    ("https://0x7f000001/", "loopback"),
    ("https://0X7F000001/", "loopback"),
    ("https://0x7f.1/", "loopback"),
    ("https://0x7f.0.0.0x1/", "loopback"),
    ("https://0177.0.0.1/", "loopback"),
    ("https://0177.0x0.0.01/", "loopback"),
    ("https://00000177.0.0.1/", "loopback"),
    ("https://127.0.0x1/", "loopback"),
    ("https://127.0x1/", "loopback"),
    (f"https://{FULL_127}.0.0.1/", "loopback"),
    ("https://127\u30020\u30020\u30021/", "loopback"),  # ideographic full stops
    ("https://127\uff0e0\uff0e0\uff0e1/", "loopback"),  # full-width full stops
    ("https://\u2460\u2461\u2466.0.0.1/", "loopback"),  # digits in circles
    ("https://\U0001d7cf\U0001d7d0\U0001d7d5.0.0.1/", "loopback"),  # mathematical digits
    ("https://\u00b9\u00b2\u2077.0.0.1/", "loopback"),  # superscripts
    ("https://\ufe0f127.0.0.1/", "loopback"),  # a variation selector, which the mapping drops
    ("https://\uff10\uff58\uff17\uff46.1/", "loopback"),  # 0x7f.1 in full width
    ("https://[::1]/", "loopback"),
    ("https://[0:0:0:0:0:0:0:1]/", "loopback"),
    ("https://[::0001]/", "loopback"),
    ("https://[::ffff:127.0.0.1]/", "loopback"),
    ("https://[::ffff:7f00:1]/", "loopback"),
    ("https://[::FFFF:7F00:1]:443/", "loopback"),
    ("https://[0:0:0:0:0:ffff:7f00:0001]/", "loopback"),
    # other literals
    ("https://0/", "this network"),
    ("https://0.0.0.0/", "this network"),
    ("https://10.0.0.1/", "private use"),
    ("https://3232235777/", "private use"),
    ("https://169.254.169.254/latest/meta-data/", "metadata"),
    ("https://2852039166/", "metadata"),
    ("https://0xa9fea9fe/", "metadata"),
    ("https://0251.0376.0251.0376/", "metadata"),
    ("https://169.254.43518/", "metadata"),
    ("https://169.16689662/", "metadata"),
    ("https://[::ffff:169.254.169.254]/", "metadata"),
    ("https://[fd00:ec2::254]/", "metadata"),
    ("https://[64:ff9b::a9fe:a9fe]/", "NAT64"),
    ("https://[2002:a9fe:a9fe::]/", "6to4"),
    ("https://[::]/", "unspecified"),
    ("https://[::127.0.0.1]/", "IPv4-compatible"),
    ("https://[fe80::1]/", "link local"),
    ("https://255.255.255.255/", "broadcast"),
    # no literals at all
    ("https://[fe80::1%25eth0]/", "zone id"),
    ("https://[::1%eth0]/", "zone id"),
    ("https://[::1/", "no ]"),
    ("https://[]/", "no IPv6 address"),
    ("https://[127.0.0.1]/", "no IPv6 address"),
    ("https://[example.com]/", "no IPv6 address"),
    ("https://[v1.fe80::a]/", "no IPv6 address"),
    ("https://[::1]x/", "no port"),
    ("https://::1/", "no port"),
    ("https://2606:4700::1111/", "no port"),
    ("https://256.256.256.256/", "no IPv4 address"),
    ("https://127.0.0.0.1/", "no IPv4 address"),
    ("https://127.0.0.256/", "no IPv4 address"),
    ("https://4294967296/", "no IPv4 address"),
    ("https://1.16777216/", "no IPv4 address"),
    ("https://08.0.0.1/", "no IPv4 address"),
    ("https://127.0.0.09/", "no IPv4 address"),
    ("https://example.1/", "no IPv4 address"),
    ("https://example.0x1/", "no IPv4 address"),
    ("https://1..1/", "no IPv4 address"),
    ("https://0x" + "f" * 100 + "/", "no IPv4 address"),
    ("https://" + "9" * 1500 + "/", "no IPv4 address"),
    # names
    ("https://localhost/", "private network"),
    ("https://LOCALHOST./", "private network"),
    ("https://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54/", "private network"),  # full width
    ("https://loc\u24d0lhost/", "private network"),  # a in a circle
    ("https://app.localhost/", "private network"),
    ("https://printer.local/", "private network"),
    ("https://db.prod.internal/", "private network"),
    ("https://api.default.svc/", "private network"),
    ("https://api.default.svc.cluster.local/", "private network"),
    ("https://router.lan/", "private network"),
    ("https://nas.home.arpa/", "private network"),
    ("https://kubernetes/", "no dot"),
    ("https://metadata/", "metadata"),
    ("https://metadata.google.internal/", "metadata"),
    ("https://METADATA.google.internal./computeMetadata/v1/", "metadata"),
    ("https://metadata.goog/", "metadata"),
    # internationalised names that are none
    ("https://\U0001f600.com/", "xn--"),
    ("https://a\u0301\u0378.com/", "invisible"),  # unassigned
    ("https://\u0301a.com/", "xn--"),  # a combining mark first
    ("https://a\u00fc_.com/", "xn--"),
    # length
    ("https://example.com/" + "a" * 2048, "shorten"),
    ("https://example.com/" + "\u00fc" * 500, "once encoded"),
)

# (url, normal form)
ALLOWED = (
    ("https://example.com", "https://example.com/"),
    ("https://example.com/", "https://example.com/"),
    ("HTTPS://EXAMPLE.COM/Path", "https://example.com/Path"),
    ("https://example.com./", "https://example.com/"),
    ("https://example.com:443/x", "https://example.com/x"),
    ("https://example.com:0443/x", "https://example.com/x"),
    ("https://example.com:80/x", "https://example.com:80/x"),
    ("https://example.com?x=1", "https://example.com/?x=1"),
    ("https://example.com/?", "https://example.com/?"),
    ("https://example.com/a/../b//c/.", "https://example.com/a/../b//c/."),
    ("https://example.com/%7Euser/%2F?q=%20+", "https://example.com/%7Euser/%2F?q=%20+"),
    ("https://example.com/a?b[]=1&c=;,!$'()*@:", "https://example.com/a?b[]=1&c=;,!$'()*@:"),
    ('https://example.com/"<>^`{|}', "https://example.com/%22%3C%3E%5E%60%7B%7C%7D"),
    ("https://example.com/\u00fc?\u20ac", "https://example.com/%C3%BC?%E2%82%AC"),
    ("https://example.com/user@host", "https://example.com/user@host"),
    ("https://b\u00fccher.example/", "https://xn--bcher-kva.example/"),
    ("https://B\u00dcCHER.example/", "https://xn--bcher-kva.example/"),
    ("https://stra\u00dfe.example/", "https://xn--strae-oqa.example/"),
    ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
    ("https://\uff45xample\u3002com/", "https://example.com/"),
    ("https://my_app.example.com/", "https://my_app.example.com/"),
    ("https://1and1.com/", "https://1and1.com/"),
    ("https://127.0.0.1.nip.io/", "https://127.0.0.1.nip.io/"),
    ("https://8.8.8.8/", "https://8.8.8.8/"),
    ("https://0x08.010.2056/", "https://8.8.8.8/"),
    ("https://134744072/", "https://8.8.8.8/"),
    ("https://[2606:4700:0:0::1111]/", "https://[2606:4700::1111]/"),
    ("https://[2606:4700::1111]:80/", "https://[2606:4700::1111]:80/"),
    ("https://[::ffff:8.8.8.8]/", "https://8.8.8.8/"),
    ("https://notlocalhost.com/", "https://notlocalhost.com/"),
    ("https://metadata.example.com/", "https://metadata.example.com/"),
)

# With allow_private. (url, normal form, needs_private)
OPENED = (
    ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/x", True),
    ("http://2130706433:8080/x", "http://127.0.0.1:8080/x", True),
    ("http://localhost:3000", "http://localhost:3000/", True),
    ("http://localhost/", "http://localhost/", True),
    ("http://receiver:9000/", "http://receiver:9000/", True),
    ("http://host.docker.internal:80/", "http://host.docker.internal/", True),
    ("http://[::1]:8080/", "http://[::1]:8080/", True),
    ("http://[::ffff:10.0.0.1]/", "http://10.0.0.1/", True),
    ("http://example.com/", "http://example.com/", True),
    ("http://example.com:443/", "http://example.com:443/", True),
    ("https://example.com:8443/", "https://example.com:8443/", True),
    ("https://10.0.0.1/", "https://10.0.0.1/", False),
    ("https://db.internal/", "https://db.internal/", False),
    ("https://example.com/", "https://example.com/", False),
)

STILL_REFUSED = (
    ("http://8.8.8.8/", "public address"),
    ("https://8.8.8.8:8443/", "public address"),
    ("http://169.254.169.254/", "metadata"),
    ("http://0xa9fea9fe/", "metadata"),
    ("http://metadata.google.internal/", "metadata"),
    ("http://metadata/", "metadata"),
    ("http://0.0.0.0:8080/", "127.0.0.1"),
    ("http://[::]:8080/", "::1"),
    ("http://[fe80::1]/", "link local"),
    ("http://user@localhost/", "user name"),
    ("ws://localhost/", "https://"),
)


@pytest.mark.parametrize(("url", "part"), REFUSED)
def test_refused_with_a_sentence_that_says_what_to_do(url: str, part: str) -> None:
    refusal = check_target_url(url, allow_private=False)
    assert isinstance(refusal, UrlRefusal), refusal
    assert refusal.code == "url_not_allowed"
    assert part in refusal.detail
    assert refusal.detail.endswith(".")


@pytest.mark.parametrize(("url", "normal"), ALLOWED)
def test_allowed_in_one_normal_form(url: str, normal: str) -> None:
    target = check_target_url(url, allow_private=False)
    assert isinstance(target, TargetUrl), target
    assert target.url == normal
    assert not target.needs_private


@pytest.mark.parametrize(("url", "normal", "needs_private"), OPENED)
def test_allow_private_opens_hosts_and_makes_http_and_ports_conditional(
    url: str,
    normal: str,
    needs_private: bool,  # noqa: FBT001 - a column of the table
) -> None:
    target = check_target_url(url, allow_private=True)
    assert isinstance(target, TargetUrl), target
    assert (target.url, target.needs_private) == (normal, needs_private)
    if needs_private:
        assert isinstance(check_target_url(url, allow_private=False), UrlRefusal)


@pytest.mark.parametrize(("url", "part"), STILL_REFUSED)
def test_allow_private_does_not_open_these(url: str, part: str) -> None:
    refusal = check_target_url(url, allow_private=True)
    assert isinstance(refusal, UrlRefusal), refusal
    assert part in refusal.detail


def test_the_spellings_are_many() -> None:
    assert len(REFUSED) + len(ALLOWED) + len(OPENED) + len(STILL_REFUSED) >= 60


def test_parts() -> None:
    assert check_target_url("https://[2606:4700::1111]:80/a?b", allow_private=False) == TargetUrl(
        url="https://[2606:4700::1111]:80/a?b",
        scheme="https",
        host="2606:4700::1111",
        port=80,
        target="/a?b",
        is_literal=True,
        needs_private=False,
    )


def test_an_operator_may_add_ports() -> None:
    target = check_target_url("https://example.com:8443/", allow_private=False, ports=frozenset({443, 8443}))
    assert isinstance(target, TargetUrl)
    assert not target.needs_private
    refusal = check_target_url("https://example.com:80/", allow_private=False, ports=frozenset({443, 8443}))
    assert isinstance(refusal, UrlRefusal)
    assert "443, 8443" in refusal.detail


def test_the_longest_url_passes_and_one_more_character_does_not() -> None:
    head = "https://example.com/"
    longest = head + "a" * (URL_CHARS_MAX - len(head))
    assert isinstance(check_target_url(longest, allow_private=False), TargetUrl)
    assert isinstance(check_target_url(longest + "a", allow_private=False), UrlRefusal)


PIECES = st.sampled_from(
    [
        *(
            "https://",
            "http://",
            "HTTPS://",
            "//",
            "/",
            "\\",
            "@",
            ":",
            ":443",
            ":80",
            ":8080",
            "?",
            "#",
            "%",
            "%2e",
        ),
        *(
            "[",
            "]",
            "::1",
            "::ffff:",
            "[::1]",
            "127",
            ".",
            "0x7f",
            "0177",
            "1",
            "0",
            "localhost",
            "example",
            "com",
        ),
        *(
            FULL_127,
            "\u3002",
            "\uff0f",
            "\u00fc",
            "\u2100",
            "xn--",
            "-",
            "_",
            "\t",
            "\n",
            " ",
            "a",
            "\U0001f600",
        ),
    ],
)
JUMBLED = st.lists(PIECES, max_size=12).map("".join)
URLS = st.one_of(
    JUMBLED, JUMBLED.map("https://".__add__), JUMBLED.map("https://example.com".__add__), st.text()
)


@given(url=URLS, allow_private=st.booleans())
def test_any_text_is_answered_and_the_normal_form_is_its_own(url: str, allow_private: bool) -> None:  # noqa: FBT001
    target = check_target_url(url, allow_private=allow_private)
    if isinstance(target, UrlRefusal):
        assert target.detail
        return
    assert target.url.isascii()
    assert target.url.isprintable()
    assert " " not in target.url
    assert check_target_url(target.url, allow_private=allow_private) == target


@given(url=URLS)
def test_other_parsers_read_the_same_host_and_port(url: str) -> None:
    """The sender hands the normal form to yarl; a proxy or a redirect may hand it to others."""
    target = check_target_url(url, allow_private=True)
    if isinstance(target, UrlRefusal):
        return
    for parsed in (URL(target.url, encoded=True), URL(target.url)):
        assert (parsed.raw_host, parsed.port, parsed.scheme) == (target.host, target.port, target.scheme)
        assert parsed.raw_user is None
    path, _, query = target.target.partition("?")  # yarl drops a question mark with nothing after it
    assert URL(target.url, encoded=True).raw_path_qs == path + ("?" + query if query else "")
    split = urlsplit(target.url)
    assert (split.hostname, split.username, split.fragment) == (target.host, None, "")


NUMBERS = st.one_of(
    st.integers(0, 2**32).map(str),
    st.integers(0, 2**32).map(hex),
    st.integers(0, 2**32).map("0{:o}".format),
    st.integers(0, 300).map(str),
    st.sampled_from(["127", "0x7f", "0177", "10", "169", "254", "0", "00", "1"]),
)


@given(host=st.lists(NUMBERS, min_size=1, max_size=4).map(".".join))
def test_numbers_are_read_as_the_system_reads_them(host: str) -> None:
    """If inet_aton dials it, we judged that very address; so no spelling leads anywhere unjudged."""
    answer = check_target_url(f"https://{host}/", allow_private=False)
    try:
        dialled = IPv4Address(socket.inet_aton(host))
    except OSError:
        return
    verdict = judge_address(dialled, allow_private=False)
    if verdict.allowed:
        assert isinstance(answer, TargetUrl)
        assert (answer.host, answer.is_literal) == (str(dialled), True)
    else:
        assert answer == UrlRefusal(detail=verdict.reason)
