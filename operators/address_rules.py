"""Which addresses a webhook may be sent to: the deny table as data, and the verdict on an address.

A customer chooses the URL, so the address behind it is hostile input: it may lead into our own network, to
the cloud's metadata service, or back to ourselves. The guard asks this module at every dial, with the
address really dialled.

The table is ours. `ipaddress.is_global` calls the metadata address in 6to4 and NAT64 clothes, site-local,
multicast and Azure's wire server global; and it changes with the Python version. The rows are the IANA
special-purpose registries (every row, also those marked globally reachable: none of them is a web server),
multicast, and the addresses that cloud platforms put outside of those. For IPv6 whatever lies outside
2000::/3, the only block IANA has opened for global unicast, is denied as well, so a form that we did not
think of (SIIT, ISATAP-like, future blocks) is denied without a row.

Two classes. `PRIVATE` may be opened by `allow_private` (development): RFC 1918, loopback, unique local.
`FORBIDDEN` never is. Link-local 169.254.0.0/16 and the metadata addresses among the unique local ones stay
forbidden even then: a developer's machine is often a cloud machine, nobody receives webhooks there, and
whoever reads the metadata service owns the machine's credentials. Carrier-grade NAT (100.64.0.0/10) is
forbidden for the same reason: Alibaba Cloud keeps metadata and control addresses in it.

Addresses that carry another one: an IPv4-mapped address *is* its IPv4 address to the kernel and is judged
as that. The well-known NAT64 prefix is how IPv6-only networks reach IPv4, so it is allowed when the address
inside is public, and only then (RFC 6052 section 3.1 forbids anything else there, and `allow_private` must
not open the translator's own network). 6to4, Teredo, the local-use NAT64 prefix and IPv4-compatible
addresses are denied whole: the first two are dead, the third is the operator's own, and where the IPv4
address stands in it is unknown.

Rejected: an allow-list (customers' addresses are unknown), and judging names (the answer may change before
the dial).

Source: IANA ipv4-/ipv6-special-registry; RFC 6890, 6052, 7526, 8215, 9637, 9780; OWASP SSRF cheat sheet,
case 2.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

from msgspec import Struct

IpAddress = IPv4Address | IPv6Address


class AddressClass(StrEnum):
    """How firmly an address range is closed."""

    PRIVATE = "private"
    FORBIDDEN = "forbidden"


class AddressRule(Struct, frozen=True):
    """One row of the deny table.

    Attributes:
        network: the range, in CIDR form; where rows overlap the longest prefix wins.
        rule: the stable name that logs, metrics and refusals carry.
        what: what the range is, to be read by a customer.
    """

    network: str
    rule: str
    what: str
    address_class: AddressClass = AddressClass.FORBIDDEN


class AddressVerdict(Struct, frozen=True):
    """What is to be done with an address.

    Attributes:
        is_private: the address is in a range of class `PRIVATE`. Plain http and odd ports are for these only.
        rule: the row that decided, or `public`.
        reason: a sentence that says why it is refused and what to do; empty when it is allowed.
    """

    allowed: bool
    is_private: bool
    rule: str
    reason: str = ""


_PRIVATE: Final = AddressClass.PRIVATE

ADDRESS_RULES: Final = (
    # IPv4: iana-ipv4-special-registry.
    AddressRule("0.0.0.0/8", "this_network", "'this network' (RFC 791); for this machine use 127.0.0.1"),
    AddressRule("10.0.0.0/8", "private_use", "private use (RFC 1918)", _PRIVATE),
    AddressRule("100.64.0.0/10", "shared_address_space", "carrier-grade NAT (RFC 6598)"),
    AddressRule("127.0.0.0/8", "loopback", "loopback (RFC 1122)", _PRIVATE),
    AddressRule("169.254.0.0/16", "link_local", "link local (RFC 3927)"),
    AddressRule("172.16.0.0/12", "private_use", "private use (RFC 1918)", _PRIVATE),
    AddressRule("192.0.0.0/24", "ietf_protocol", "IETF protocol assignments (RFC 6890)"),
    AddressRule("192.0.2.0/24", "documentation", "documentation, TEST-NET-1 (RFC 5737)"),
    AddressRule("192.31.196.0/24", "as112", "AS112-v4, a sink for DNS (RFC 7535)"),
    AddressRule("192.52.193.0/24", "amt", "automatic multicast tunnelling (RFC 7450)"),
    AddressRule("192.88.99.0/24", "6to4_relay", "6to4 relay anycast, deprecated (RFC 7526)"),
    AddressRule("192.168.0.0/16", "private_use", "private use (RFC 1918)", _PRIVATE),
    AddressRule("192.175.48.0/24", "as112", "direct delegation AS112, a sink for DNS (RFC 7534)"),
    AddressRule("198.18.0.0/15", "benchmarking", "benchmarking (RFC 2544)"),
    AddressRule("198.51.100.0/24", "documentation", "documentation, TEST-NET-2 (RFC 5737)"),
    AddressRule("203.0.113.0/24", "documentation", "documentation, TEST-NET-3 (RFC 5737)"),
    AddressRule("224.0.0.0/4", "multicast", "multicast (RFC 5771)"),
    AddressRule("240.0.0.0/4", "reserved", "reserved (RFC 1112)"),
    AddressRule("255.255.255.255/32", "broadcast", "limited broadcast (RFC 8190)"),
    # IPv4: what platforms add. Some lie in a range above; their row makes the refusal say what they are.
    AddressRule("100.100.100.200/32", "metadata", "Alibaba Cloud's metadata service"),
    AddressRule("168.63.129.16/32", "metadata", "Azure's wire server, a public address that only guests see"),
    AddressRule("169.254.169.254/32", "metadata", "the metadata service of most clouds"),
    AddressRule("169.254.170.2/32", "metadata", "the credentials service of AWS containers"),
    AddressRule("169.254.170.23/32", "metadata", "the credentials service of AWS EKS pods"),
    AddressRule("192.0.0.192/32", "metadata", "Oracle Cloud's former metadata service"),
    # IPv6: what is not global unicast at all. Together these three rows are the complement of 2000::/3.
    AddressRule("::/3", "not_global_unicast", "outside 2000::/3, the block of global unicast (RFC 4291)"),
    AddressRule("4000::/2", "not_global_unicast", "outside 2000::/3, the block of global unicast (RFC 4291)"),
    AddressRule("8000::/1", "not_global_unicast", "outside 2000::/3, the block of global unicast (RFC 4291)"),
    # IPv6: iana-ipv6-special-registry. ::ffff:0:0/96 and 64:ff9b::/96 are judged by the IPv4 address inside.
    AddressRule("::/96", "ipv4_compatible", "IPv4-compatible, deprecated (RFC 4291)"),
    AddressRule("::/128", "unspecified", "the unspecified address (RFC 4291); for this machine use ::1"),
    AddressRule("::1/128", "loopback", "loopback (RFC 4291)", _PRIVATE),
    AddressRule("::ffff:0:0:0/96", "ipv4_translated", "IPv4-translated, deprecated (RFC 2765)"),
    AddressRule("64:ff9b:1::/48", "nat64_local_use", "local-use NAT64 (RFC 8215)"),
    AddressRule("100::/64", "discard_only", "discard-only (RFC 6666)"),
    AddressRule("100:0:0:1::/64", "dummy_prefix", "the dummy prefix (RFC 9780)"),
    AddressRule("2001::/23", "ietf_protocol", "IETF protocol assignments (RFC 2928)"),
    AddressRule("2001::/32", "teredo", "Teredo (RFC 4380)"),
    AddressRule("2001:2::/48", "benchmarking", "benchmarking (RFC 5180)"),
    AddressRule("2001:3::/32", "amt", "automatic multicast tunnelling (RFC 7450)"),
    AddressRule("2001:4:112::/48", "as112", "AS112-v6, a sink for DNS (RFC 7535)"),
    AddressRule("2001:10::/28", "orchid", "ORCHID, deprecated (RFC 4843)"),
    AddressRule("2001:20::/28", "orchid", "ORCHIDv2 (RFC 7343)"),
    AddressRule("2001:30::/28", "drone_remote_id", "drone remote identification (RFC 9374)"),
    AddressRule("2001:db8::/32", "documentation", "documentation (RFC 3849)"),
    AddressRule("2002::/16", "6to4", "6to4, deprecated, carries an IPv4 address (RFC 7526)"),
    AddressRule("2620:4f:8000::/48", "as112", "direct delegation AS112, a sink for DNS (RFC 7534)"),
    AddressRule("3fff::/20", "documentation", "documentation (RFC 9637)"),
    AddressRule("5f00::/16", "segment_routing", "segment routing identifiers (RFC 9602)"),
    AddressRule("fc00::/7", "unique_local", "unique local (RFC 4193)", _PRIVATE),
    AddressRule("fe80::/10", "link_local", "link local (RFC 4291)"),
    AddressRule("fec0::/10", "site_local", "site local, deprecated (RFC 3879)"),
    AddressRule("ff00::/8", "multicast", "multicast (RFC 4291)"),
    # IPv6: what platforms add, inside the unique local block, hence invisible to a rule about ranges.
    AddressRule("fd00:42::42/128", "metadata", "Scaleway's metadata service"),
    AddressRule("fd00:c1::a9fe:a9fe/128", "metadata", "Oracle Cloud's metadata service"),
    AddressRule("fd00:ec2::/32", "metadata", "AWS's metadata, DNS and time services"),
    AddressRule("fd20:ce::/32", "metadata", "Google Cloud's metadata service"),
)

PUBLIC: Final = AddressVerdict(allowed=True, is_private=False, rule="public")

_V4_MAPPED_PREFIX: Final = 0xFFFF
"""The first 96 bits of ::ffff:0:0/96 (RFC 4291 section 2.5.5.2)."""
_NAT64_PREFIX: Final = 0x0064_FF9B << 64
"""The first 96 bits of 64:ff9b::/96 (RFC 6052 section 2.1)."""
_V4_BITS: Final = 32
_V4_MASK: Final = 0xFFFF_FFFF


def judge_address(
    address: str | IpAddress,
    *,
    allow_private: bool,
    own_addresses: frozenset[IpAddress] = frozenset(),
) -> AddressVerdict:
    """Judges one address that is about to be dialled.

    Args:
        address: a canonical literal. Anything else (a name, `127.1`, a zone id) is refused, not interpreted.
        allow_private: opens the ranges of class `PRIVATE`.
        own_addresses: of our own interfaces. A private one follows `allow_private`; a public one is always
            refused: a webhook to ourselves, around whatever stands in front of us, is never meant.
    """
    if isinstance(address, str):
        try:
            address = IPv6Address(address) if ":" in address else IPv4Address(address)
        except ValueError:
            return _refused("not_an_address", f"{address!r} is no canonical IP address; resolve names first.")
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return _refused(
                "scoped", f"{address} has a zone id, which only means something on one link; leave it out."
            )
        if int(address) >> _V4_BITS == _V4_MAPPED_PREFIX:
            address = IPv4Address(int(address) & _V4_MASK)
    rule = _rule_of(address)
    if rule is None:
        return _judge_public(address, own_addresses)
    if rule.address_class is AddressClass.FORBIDDEN:
        return _refused(rule.rule, f"{address} is in {rule.network}, {rule.what}; use a public address.")
    if allow_private:
        return AddressVerdict(allowed=True, is_private=True, rule=rule.rule)
    reason = (
        f"{address} is in {rule.network}, {rule.what}; use a public address, or start with --allow-private"
        " on a development machine."
    )
    return AddressVerdict(allowed=False, is_private=True, rule=rule.rule, reason=reason)


def judge_answers(
    addresses: Iterable[str | IpAddress],
    *,
    allow_private: bool,
    own_addresses: frozenset[IpAddress] = frozenset(),
) -> AddressVerdict:
    """Judges a name by all its answers: if any of them is refused, the name is.

    A mixed answer is how rebinding hides a private address behind a public one, and no honest receiver has
    one. The verdict of an allowed name is private only when every answer is.
    """
    verdict: AddressVerdict | None = None
    for address in addresses:
        latest = judge_address(address, allow_private=allow_private, own_addresses=own_addresses)
        if not latest.allowed:
            return latest
        if verdict is None or verdict.is_private:
            verdict = latest
    return (
        verdict
        if verdict is not None
        else _refused("no_address", "the name has no address; give it one in DNS.")
    )


def _judge_public(address: IpAddress, own_addresses: frozenset[IpAddress]) -> AddressVerdict:
    """Judges an address that no row names: by what it carries, and by whether it is our own."""
    if own_addresses and address in own_addresses:
        return _refused(
            "own_interface", f"{address} is an address of this machine; no webhook is sent there."
        )
    if isinstance(address, IPv6Address) and _is_nat64(int(address)):
        inside = IPv4Address(int(address) & _V4_MASK)
        verdict = judge_address(inside, allow_private=False, own_addresses=own_addresses)
        if not verdict.allowed:
            return _refused(
                "nat64",
                f"{address} is the NAT64 form of {inside}, which is not public; use a public address.",
            )
    return PUBLIC


def _rule_of(address: IpAddress) -> AddressRule | None:
    """Finds the most specific row, None for a public address."""
    value = int(address)
    if isinstance(address, IPv4Address):
        return _V4_OWNERS[bisect_right(_V4_STARTS, value) - 1]
    # 64:ff9b::/96 lies outside 2000::/3 and has no row: what it carries decides.
    return None if _is_nat64(value) else _V6_OWNERS[bisect_right(_V6_STARTS, value) - 1]


def _is_nat64(value: int) -> bool:
    return value >> _V4_BITS == _NAT64_PREFIX


def _refused(rule: str, reason: str) -> AddressVerdict:
    return AddressVerdict(allowed=False, is_private=False, rule=rule, reason=reason)


def _flatten(rules: Sequence[AddressRule], version: int) -> tuple[list[int], list[AddressRule | None]]:
    """Turns nested networks into disjoint intervals: sorted starts, and the row that owns each interval.

    One binary search then answers a dial (the table has about 90 intervals), whatever the nesting.
    """
    networks: list[tuple[IPv4Network | IPv6Network, AddressRule]] = []
    for rule in rules:
        network = ip_network(rule.network)
        if network.version == version:
            networks.append((network, rule))
    networks.sort(key=lambda row: row[0].prefixlen, reverse=True)  # the longest prefix is asked first
    edges = {0}
    for network, _ in networks:
        edges.add(int(network.network_address))
        edges.add(int(network.broadcast_address) + 1)
    starts = sorted(edges)
    owners = [
        next(
            (rule for network, rule in networks if _covers(network, start)),
            None,
        )
        for start in starts
    ]
    return starts, owners


def _covers(network: IPv4Network | IPv6Network, value: int) -> bool:
    return int(network.network_address) <= value <= int(network.broadcast_address)


_V4_STARTS, _V4_OWNERS = _flatten(ADDRESS_RULES, 4)
_V6_STARTS, _V6_OWNERS = _flatten(ADDRESS_RULES, 6)
