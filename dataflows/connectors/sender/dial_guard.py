"""The egress guard: every address is judged at the moment it is dialled, whatever led to it.

A check of the URL or of the name's answers is not enough: the name may answer differently the next time
(rebinding), and aiohttp does not ask a resolver at all for an IP literal. So the guard stands where the
socket is made. Both senders call `check` with the address that goes into `connect`; for aiohttp,
`guarded_socket_factory` is that place.

It fails closed: what cannot be judged is refused. A refusal is not an OSError on purpose: aiohttp and happy
eyeballs swallow those and try the next address, and a name with one forbidden answer is forbidden.

`needs_private` carries the condition of plain http and odd ports (`TargetUrl.needs_private`) to the dial.
The port is looked at here as well, so a caller who forgets it can only err with plain http on port 80 or
443, in development.

Our own interfaces: a private one (loopback above all) follows `allow_private`; a public one is refused
always.
"""

import socket
from collections.abc import Callable, Iterable
from typing import Final

from aiohttp.connector import AddrInfoType, SocketFactoryType

from operators.address_rules import AddressVerdict, IpAddress, judge_address, judge_answers
from operators.target_url import DEFAULT_PORTS
from schemas.errors import HooktideError

_NEEDS_PRIVATE: Final = "needs_private"


class EgressRefused(HooktideError):  # noqa: N818 - the name is the field's word
    """An address may not be dialled.

    Attributes:
        rule: the stable name of the rule, for logs and metrics.
        address: as it would have been dialled; empty when a name had no address.
        reason: a sentence for our own logs; it names the address.
        detail: a sentence for the customer. It does not name the address: a customer who may make us look up
            names of the network we stand in must not read the answers.
    """

    def __init__(self, rule: str, address: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.address = address
        self.reason = reason
        self.detail = (
            f"The host leads to an address that webhooks are not sent to ({rule}); use a public one."
        )


class DialGuard:
    """Says no to addresses.

    Args:
        allow_private: development: private addresses may be dialled.
        own_addresses: gives those of our interfaces; asked at each check, so it caches.
        ports: what a public address may be dialled on.
    """

    def __init__(
        self,
        *,
        allow_private: bool,
        own_addresses: Callable[[], frozenset[IpAddress]],
        ports: frozenset[int] = DEFAULT_PORTS,
    ) -> None:
        self._allow_private = allow_private
        self._own_addresses = own_addresses
        self._ports = ports

    def check(self, address: str, port: int, *, needs_private: bool) -> None:
        """Returns when `address` may be dialled now.

        Raises:
            EgressRefused: when not.
        """
        verdict = judge_address(
            address,
            allow_private=self._allow_private,
            own_addresses=self._own_addresses(),
        )
        self._hold(verdict, address, port, needs_private=needs_private)

    def check_answers(self, addresses: Iterable[str], port: int, *, needs_private: bool) -> None:
        """Returns when a name with these answers may be dialled: one refused answer refuses the name.

        Asked before the first dial; each dial is checked again.

        Raises:
            EgressRefused: when not.
        """
        answers = tuple(addresses)
        verdict = judge_answers(
            answers,
            allow_private=self._allow_private,
            own_addresses=self._own_addresses(),
        )
        self._hold(verdict, ", ".join(answers), port, needs_private=needs_private)

    def _hold(self, verdict: AddressVerdict, address: str, port: int, *, needs_private: bool) -> None:
        if not verdict.allowed:
            raise EgressRefused(verdict.rule, address, verdict.reason)
        if verdict.is_private:
            return
        if port not in self._ports:
            reason = f"{address} is public, and port {port} is for private addresses only; use port 443."
            raise EgressRefused(_NEEDS_PRIVATE, address, reason)
        if needs_private:
            reason = f"{address} is public, and plain http is for private addresses only; use https."
            raise EgressRefused(_NEEDS_PRIVATE, address, reason)


def guarded_socket_factory(guard: DialGuard, *, needs_private: bool = False) -> SocketFactoryType:
    """Makes the `socket_factory` of an aiohttp `TCPConnector`: no socket without a check of its address.

    aiohttp calls it once per connection attempt with the final address, for literals too. Set
    `happy_eyeballs_delay=None`, so that attempts go one after the other and the first refusal ends them.

    Args:
        needs_private: for a connector that serves `TargetUrl.needs_private` URLs. aiohttp does not say here
            what it connects for, so those get a connector of their own.
    """

    def checked_socket(addr_info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, peer = addr_info
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise EgressRefused("not_an_address", str(peer), f"Address family {family} is no IP; use https.")
        guard.check(peer[0], peer[1], needs_private=needs_private)
        return socket.socket(family, kind, protocol)

    return checked_socket
