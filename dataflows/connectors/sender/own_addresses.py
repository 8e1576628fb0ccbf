"""The addresses of this machine's interfaces, for the rule that a webhook is never sent to ourselves.

Asked of the kernel over rtnetlink (RTM_GETADDR), as `ip addr` and libc's getifaddrs do: one question, both
families, secondary and alias addresses included, 0.1 ms. Rejected: `/proc/net/fib_trace` with
`/proc/net/if_inet6` (the first is missing in sandboxed containers and is a drawing to be parsed), a look-up
of our own host name (says what DNS says), psutil (a dependency for forty lines).

What it cannot know: an address that a cloud translates to us, and a load balancer's. Those need a network
policy outside.

Source: rtnetlink(7), netlink(7), linux/if_addr.h.
"""

import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from operators.address_rules import IpAddress
from schemas.errors import Unavailable

MAX_AGE_S: Final = 30.0
"""Interfaces come and go with containers and VPNs; within half a minute the guard knows."""

_RTM_GETADDR: Final = 22
_RTM_NEWADDR: Final = 20
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST_DUMP: Final = 0x301
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFADDRMSG: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ATTRIBUTE: Final = struct.Struct("=HH")  # rtattr: length, type
_REPLY_BYTES_MAX: Final = 65_536
_REPLY_TIMEOUT_S: Final = 1.0


class OwnAddresses:
    """The interface addresses, read again when older than 30 s.

    The first reading happens when it is made, so that a machine on which it cannot work fails at start. When
    a later one fails, the last good one goes on to count.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._addresses = own_interface_addresses()
        self._read_at_s = clock()

    def __call__(self) -> frozenset[IpAddress]:
        """Returns them."""
        now_s = self._clock()
        if now_s - self._read_at_s >= MAX_AGE_S:
            self._read_at_s = now_s
            try:
                self._addresses = own_interface_addresses()
            except Unavailable:
                # The table still denies every private one; what may be missed is a new public one.
                return self._addresses
        return self._addresses


def own_interface_addresses() -> frozenset[IpAddress]:
    """Asks the kernel now.

    Raises:
        Unavailable: when it does not answer (a sandbox that forbids netlink sockets).
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(_REPLY_TIMEOUT_S)
            netlink.bind((0, 0))
            question = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
            netlink.send(
                _HEADER.pack(_HEADER.size + len(question), _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0)
                + question,
            )
            return frozenset(_dump(netlink))
    except (OSError, ValueError, struct.error) as error:
        raise Unavailable(
            f"The kernel does not tell this machine's addresses ({error}), so the egress guard cannot refuse"
            " them; allow netlink sockets (AF_NETLINK) to this process.",
        ) from error


def _dump(netlink: socket.socket) -> Iterator[IpAddress]:
    """Reads datagrams until the kernel says that the dump is done."""
    while True:
        reply = netlink.recv(_REPLY_BYTES_MAX)
        at = 0
        while at < len(reply):
            length, kind, *_ = _HEADER.unpack_from(reply, at)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR or length < _HEADER.size:
                raise OSError(f"netlink answered with message type {kind} of {length} bytes")
            if kind == _RTM_NEWADDR:
                yield from _message_addresses(reply[at + _HEADER.size : at + length])
            at += _aligned(length)


def _message_addresses(message: bytes) -> Iterator[IpAddress]:
    """IFA_LOCAL is ours where it is given; IFA_ADDRESS may then be the peer of a point-to-point link."""
    family = message[0]
    found: dict[int, bytes] = {}
    at = _IFADDRMSG.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            raise OSError(f"netlink answered with an attribute of {length} bytes")
        found[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    value = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))
    if value is None:
        return
    if family == socket.AF_INET:
        yield IPv4Address(value)
    elif family == socket.AF_INET6:
        yield IPv6Address(value)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
