"""The deny table, range by range and spelling by spelling.

The ranges stand here a second time, typed from the registries and not imported: a row lost from the table
is a failure.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.address_rules import (
    ADDRESS_RULES,
    PUBLIC,
    AddressClass,
    IpAddress,
    judge_address,
    judge_answers,
)

# (range, whether allow_private opens it, the address just below is allowed, the one just above is allowed)
RANGES = (
    ("0.0.0.0/8", False, None, True),
    ("10.0.0.0/8", True, True, True),
    ("100.64.0.0/10", False, True, True),
    ("127.0.0.0/8", True, True, True),
    ("168.63.129.16/32", False, True, True),
    ("169.254.0.0/16", False, True, True),
    ("172.16.0.0/12", True, True, True),
    ("192.0.0.0/24", False, True, True),
    ("192.0.2.0/24", False, True, True),
    ("192.31.196.0/24", False, True, True),
    ("192.52.193.0/24", False, True, True),
    ("192.88.99.0/24", False, True, True),
    ("192.168.0.0/16", True, True, True),
    ("192.175.48.0/24", False, True, True),
    ("198.18.0.0/15", False, True, True),
    ("198.51.100.0/24", False, True, True),
    ("203.0.113.0/24", False, True, True),
    ("224.0.0.0/4", False, True, False),
    ("240.0.0.0/4", False, False, None),
    ("255.255.255.255/32", False, False, None),
    ("2001::/23", False, True, True),
    ("2001:db8::/32", False, True, True),
    ("2002::/16", False, True, True),
    ("2620:4f:8000::/48", False, True, True),
    ("3fff::/20", False, True, True),
    # Inside 2001::/23, so their neighbours are denied too.
    ("2001::/32", False, True, False),
    ("2001:1::1/128", False, False, False),
    ("2001:1::2/128", False, False, False),
    ("2001:1::3/128", False, False, False),
    ("2001:2::/48", False, False, False),
    ("2001:3::/32", False, False, False),
    ("2001:4:112::/48", False, False, False),
    ("2001:10::/28", False, False, False),
    ("2001:20::/28", False, False, False),
    ("2001:30::/28", False, False, False),
    # Outside 2000::/3: denied with everything around them.
    ("::/128", False, None, None),
    ("::1/128", True, False, False),
    ("::ffff:0:0:0/96", False, False, False),
    ("64:ff9b:1::/48", False, False, False),
    ("100::/64", False, False, False),
    ("100:0:0:1::/64", False, False, False),
    ("5f00::/16", False, False, False),
    ("fc00::/7", True, False, False),
    ("fe80::/10", False, False, False),
    ("fec0::/10", False, False, False),
    ("ff00::/8", False, False, None),
    ("::/3", False, None, True),
    ("4000::/2", False, True, False),
    ("8000::/1", False, False, None),
    # Inside fc00::/7, whose rest allow_private opens.
    ("fd00:ec2::/32", False, False, False),
    ("fd20:ce::/32", False, False, False),
    ("fd00:42::42/128", False, False, False),
    ("fd00:c1::a9fe:a9fe/128", False, False, False),
)

# One forbidden address in its many clothes, and others by name. (address, the rule that must refuse it)
FORBIDDEN_ALWAYS = (
    ("0.0.0.0", "this_network"),
    ("0.1.2.3", "this_network"),
    ("100.100.100.200", "metadata"),
    ("100.100.2.136", "shared_address_space"),
    ("168.63.129.16", "metadata"),
    ("169.254.0.1", "link_local"),
    ("169.254.169.253", "link_local"),
    ("169.254.169.254", "metadata"),
    ("169.254.170.2", "metadata"),
    ("169.254.170.23", "metadata"),
    ("192.0.0.8", "ietf_protocol"),
    ("192.0.0.9", "ietf_protocol"),
    ("192.0.0.10", "ietf_protocol"),
    ("192.0.0.170", "ietf_protocol"),
    ("192.0.0.192", "metadata"),
    ("192.88.99.1", "6to4_relay"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::169.254.169.254", "ipv4_compatible"),
    ("::127.0.0.1", "ipv4_compatible"),
    ("::8.8.8.8", "ipv4_compatible"),
    ("::ffff:169.254.169.254", "metadata"),
    ("::ffff:a9fe:a9fe", "metadata"),
    ("::FFFF:A9FE:A9FE", "metadata"),
    ("0:0:0:0:0:ffff:a9fe:a9fe", "metadata"),
    ("0000:0000:0000:0000:0000:ffff:169.254.169.254", "metadata"),
    ("::ffff:0.0.0.0", "this_network"),
    ("::ffff:0:169.254.169.254", "ipv4_translated"),
    ("64:ff9b::169.254.169.254", "nat64"),
    ("64:ff9b::a9fe:a9fe", "nat64"),
    ("64:ff9b::10.0.0.1", "nat64"),
    ("64:ff9b::127.0.0.1", "nat64"),
    ("64:ff9b:1::a9fe:a9fe", "nat64_local_use"),
    ("64:ff9b:1::8.8.8.8", "nat64_local_use"),
    ("2002:a9fe:a9fe::1", "6to4"),
    ("2002:7f00:1::", "6to4"),
    ("2002:808:808::", "6to4"),
    ("2001:0:a9fe:a9fe::", "teredo"),
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "teredo"),
    ("2001:db8::1", "documentation"),
    ("3fff:fff::1", "documentation"),
    ("5f00::1", "segment_routing"),
    ("fe80::1", "link_local"),
    ("fe80::a9fe:a9fe", "link_local"),
    ("fec0::1", "site_local"),
    ("ff02::1", "multicast"),
    ("ff0e::1", "multicast"),
    ("fd00:ec2::254", "metadata"),
    ("fd00:ec2::253", "metadata"),
    ("fd20:ce::254", "metadata"),
    ("fd00:42::42", "metadata"),
    ("fd00:c1::a9fe:a9fe", "metadata"),
    ("4000::1", "not_global_unicast"),
    ("1000::1", "not_global_unicast"),
    ("e000::1", "not_global_unicast"),
    # No canonical literal: refused, never interpreted.
    ("", "not_an_address"),
    ("localhost", "not_an_address"),
    ("example.com", "not_an_address"),
    ("127.1", "not_an_address"),
    ("2130706433", "not_an_address"),
    ("0x7f.0.0.1", "not_an_address"),
    ("0177.0.0.1", "not_an_address"),
    ("127.0.0.01", "not_an_address"),
    ("127.0.0.1.", "not_an_address"),
    (" 127.0.0.1", "not_an_address"),
    ("127.0.0.1\n", "not_an_address"),
    ("127.0.0.1/32", "not_an_address"),
    ("127.0.0.1:80", "not_an_address"),
    ("[::1]", "not_an_address"),
    ("\uff11\uff12\uff17.0.0.1", "not_an_address"),
    ("8.8.8.\uff18", "not_an_address"),
    ("256.1.1.1", "not_an_address"),
    ("::g", "not_an_address"),
    ("fe80::1%eth0", "scoped"),
    ("2606:4700::1111%1", "scoped"),
    ("::ffff:8.8.8.8%eth0", "scoped"),
)

PRIVATE = (
    ("10.0.0.1", "private_use"),
    ("172.31.255.255", "private_use"),
    ("192.168.1.1", "private_use"),
    ("127.0.0.1", "loopback"),
    ("127.8.8.8", "loopback"),
    ("::1", "loopback"),
    ("0:0:0:0:0:0:0:1", "loopback"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:7f00:1", "loopback"),
    ("::ffff:10.0.0.1", "private_use"),
    ("fd00::1", "unique_local"),
    ("fc00::1", "unique_local"),
    ("fd00:ec1::254", "unique_local"),
)

ALLOWED = (
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "93.184.216.34",
    "168.63.129.15",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "2001:4860:4860::8888",
    "2400:cb00::1",
    "::ffff:8.8.8.8",
    "::ffff:808:808",
    "64:ff9b::8.8.8.8",
    "64:ff9b::808:808",
)

V4 = st.integers(0, 2**32 - 1).map(IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(IPv6Address)
TABLE_NETWORKS = [ip_network(rule.network) for rule in ADDRESS_RULES]


def _near_the_table() -> st.SearchStrategy[IpAddress]:
    """Addresses inside the table's ranges and at their edges: where a mistake would be."""
    edges = []
    for network in TABLE_NETWORKS:
        for value in (int(network.network_address), int(network.broadcast_address)):
            for step in (-1, 0, 1):
                if 0 <= value + step < 2**network.max_prefixlen:
                    edges.append(ip_address(type(network.network_address)(value + step)))  # noqa: PERF401 - reads
    return st.sampled_from(edges)


ANY_ADDRESS = st.one_of(V4, V6, _near_the_table())


@pytest.mark.parametrize(("network", "opens", "below", "above"), RANGES)
def test_each_range_is_denied_from_its_first_to_its_last_address(
    network: str,
    opens: bool,  # noqa: FBT001 - a column of the table
    below: bool | None,  # noqa: FBT001
    above: bool | None,  # noqa: FBT001
) -> None:
    parsed = ip_network(network)
    kind = type(parsed.network_address)
    first, last = int(parsed.network_address), int(parsed.broadcast_address)
    for value in (first, last, first + (last - first) // 3):
        address = kind(value)
        assert not judge_address(str(address), allow_private=False).allowed, address
    middle = kind(first + (last - first) * 2 // 3)
    assert judge_address(middle, allow_private=True).allowed is opens
    if below is not None:
        assert judge_address(kind(first - 1), allow_private=False).allowed is below
    if above is not None:
        assert judge_address(kind(last + 1), allow_private=False).allowed is above


@pytest.mark.parametrize(("address", "rule"), FORBIDDEN_ALWAYS)
def test_forbidden_addresses_stay_forbidden_with_allow_private(address: str, rule: str) -> None:
    for allow_private in (False, True):
        verdict = judge_address(address, allow_private=allow_private)
        assert (verdict.allowed, verdict.is_private, verdict.rule) == (False, False, rule)
        assert verdict.reason.endswith(".")


@pytest.mark.parametrize(("address", "rule"), PRIVATE)
def test_private_addresses_are_opened_by_allow_private_only(address: str, rule: str) -> None:
    closed = judge_address(address, allow_private=False)
    assert (closed.allowed, closed.is_private, closed.rule) == (False, True, rule)
    assert "--allow-private" in closed.reason
    opened = judge_address(address, allow_private=True)
    assert (opened.allowed, opened.is_private, opened.rule, opened.reason) == (True, True, rule, "")


@pytest.mark.parametrize("address", ALLOWED)
def test_public_addresses_are_allowed(address: str) -> None:
    assert judge_address(address, allow_private=False) == PUBLIC
    assert judge_address(address, allow_private=True) == PUBLIC


def test_the_spellings_are_many() -> None:
    assert len(FORBIDDEN_ALWAYS) + len(PRIVATE) + len(ALLOWED) + 3 * len(RANGES) >= 120


@given(address=ANY_ADDRESS)
def test_the_longest_prefix_decides_and_nothing_allowed_is_in_the_table(address: IpAddress) -> None:
    inside = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    judged: IpAddress = address if inside is None else inside
    rows = [rule for rule in ADDRESS_RULES if judged in ip_network(rule.network)]
    verdict = judge_address(address, allow_private=False)
    if judged in IPv6Network("64:ff9b::/96"):
        assert verdict.rule in ("nat64", "public")
    elif rows:
        deciding = max(rows, key=lambda rule: ip_network(rule.network).prefixlen)
        assert (verdict.allowed, verdict.rule) == (False, deciding.rule)
        opened = judge_address(address, allow_private=True)
        assert opened.allowed is (deciding.address_class is AddressClass.PRIVATE)
    else:
        assert verdict == PUBLIC


@given(
    address=st.one_of(
        V4, _near_the_table().filter(lambda a: a.version == 4).map(lambda a: IPv4Address(int(a)))
    )
)
def test_a_denied_v4_is_denied_in_every_v6_form(address: IPv4Address) -> None:
    value = int(address)
    mapped = IPv6Address((0xFFFF << 32) | value)
    nat64 = IPv6Address((0x64FF9B << 96) | value)
    closed_forms = (
        IPv6Address(value),  # compatible
        IPv6Address((0xFFFF << 48) | value),  # translated
        IPv6Address((0x2002 << 112) | (value << 80) | 1),  # 6to4
        IPv6Address((0x64FF9B0001 << 80) | value),  # local-use NAT64
        IPv6Address((0x20010000 << 96) | (value ^ 0xFFFFFFFF)),  # Teredo, whose client address is inverted
    )
    for allow_private in (False, True):
        plain = judge_address(address, allow_private=allow_private)
        assert judge_address(mapped, allow_private=allow_private) == plain
        assert judge_address(nat64, allow_private=allow_private).allowed is (plain == PUBLIC)
    for form in closed_forms:
        assert not judge_address(form, allow_private=False).allowed
        if value > 1:  # ::1 is loopback before it is the compatible form of 0.0.0.1
            assert not judge_address(form, allow_private=True).allowed


@given(address=ANY_ADDRESS)
def test_what_ipaddress_calls_not_global_is_denied(address: IpAddress) -> None:
    """One documented difference: a mapped address is judged by what it carries."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    doubtful = (
        not address.is_global
        or address.is_private
        or address.is_multicast
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )
    if address in IPv6Network("64:ff9b::/96"):
        return  # ipaddress calls all of ::/8 reserved; NAT64 has a property of its own above
    if doubtful:
        assert not judge_address(address, allow_private=False).allowed


def test_our_own_public_addresses_are_refused_even_with_allow_private() -> None:
    own: frozenset[IpAddress] = frozenset({IPv4Address("8.8.8.8"), IPv6Address("2606:4700::1111")})
    for spelling in ("8.8.8.8", "::ffff:8.8.8.8", "2606:4700::1111", "2606:4700:0::1111"):
        verdict = judge_address(spelling, allow_private=True, own_addresses=own)
        assert (verdict.allowed, verdict.rule) == (False, "own_interface")
    assert judge_address("64:ff9b::8.8.8.8", allow_private=True, own_addresses=own).rule == "nat64"
    assert judge_address("8.8.8.9", allow_private=True, own_addresses=own) == PUBLIC


def test_our_own_private_addresses_follow_allow_private() -> None:
    own: frozenset[IpAddress] = frozenset({IPv4Address("127.0.0.1"), IPv4Address("10.0.0.5")})
    for address in ("127.0.0.1", "10.0.0.5"):
        assert not judge_address(address, allow_private=False, own_addresses=own).allowed
        assert judge_address(address, allow_private=True, own_addresses=own).allowed


def test_one_refused_answer_refuses_the_name() -> None:
    assert judge_answers(["8.8.8.8", "1.1.1.1"], allow_private=False) == PUBLIC
    for answers in (["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"]):
        assert judge_answers(answers, allow_private=False).rule == "private_use"
    for allow_private in (False, True):
        assert judge_answers(["8.8.8.8", "169.254.169.254"], allow_private=allow_private).rule == "metadata"
        assert judge_answers([], allow_private=allow_private).rule == "no_address"
        assert judge_answers(["8.8.8.8", "nonsense"], allow_private=allow_private).rule == "not_an_address"


def test_a_name_is_private_only_when_all_its_answers_are() -> None:
    assert judge_answers(["10.0.0.1", "::1"], allow_private=True).is_private
    assert not judge_answers(["10.0.0.1", "8.8.8.8"], allow_private=True).is_private
    assert not judge_answers(["8.8.8.8", "10.0.0.1"], allow_private=True).is_private


def test_every_row_is_a_real_network_with_a_reason() -> None:
    assert len({rule.network for rule in ADDRESS_RULES}) == len(ADDRESS_RULES)
    for rule in ADDRESS_RULES:
        assert str(ip_network(rule.network)) == rule.network
        assert rule.rule.replace("_", "").isalnum()
        assert rule.what
