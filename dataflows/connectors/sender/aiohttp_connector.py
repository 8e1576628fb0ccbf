"""aiohttp's connector with what it leaves open: the egress guard, poisoned connections, a bound on idle ones.

- The guard stands in the resolver (a name with one forbidden answer is forbidden) and in the socket factory
  (every address really dialled, literals too).
- A connection that received bytes while it was idle is never used again: aiohttp 3.14 would hand those bytes
  to the next POST as its answer (issue 13656 there). So would one that speaks before it is asked.
- aiohttp bounds connections in use, not idle ones. A TLS connection holds 125 KB, so the least recently used
  idle ones are closed above a mark.
- Every connection counts what it receives, so that "died before any byte", the peer's address, the first
  byte's time and a bound on the size of a head are facts, not guesses from exception types. aiohttp has no
  public way to bring a protocol class of one's own; `_factory` is the one private name used, and the
  conformance suite fails when it goes away.

Rejected: `TraceConfig` for the timings (a dozen objects and awaits per request), `limit` for bounds (it
queues requests inside the client, where no deadline of ours and no fairness reaches).
"""

import asyncio
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import AddrInfoType, Connection
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace

from dataflows.connectors.sender.dial_guard import DialGuard, guarded_socket_factory
from dataflows.connectors.sender.failures import HeadTooLarge, SpokeFirst
from dataflows.connectors.sender.flight import CURRENT_FLIGHT, Stage
from dataflows.connectors.sender.resolver import Resolver

KEEP_ALIVE_S: Final = 30.0
"""Shorter than the 60 s of common load balancers, so that we, not they, end an idle connection."""
HEAD_BYTES_MAX: Final = 65_536
"""Of an answer. Common servers refuse to send more than 8-16 KiB; four such heads fit."""


class Wire(ResponseHandler):
    """One connection, counting.

    Attributes:
        uses: how many requests it has carried, the present one included.
        received_bytes: since the present request began.
        first_byte_at_s: of the present answer, `perf_counter`; 0 before it.
        peer: `address:port`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.uses = 0
        self.received_bytes = 0
        self.first_byte_at_s = 0.0
        self.peer = ""
        self._has_head = False
        self._seam = b""
        self._body: StreamReader | None = None

    def begin(self) -> None:
        """Marks the start of a request."""
        self.uses += 1
        self.received_bytes = 0
        self.first_byte_at_s = 0.0
        self._has_head = False
        self._seam = b""
        self._body = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Notes who is at the other end."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        if name is not None:
            self.peer = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"

    def data_received(self, data: bytes) -> None:
        """Counts, parses, and ends a head that does not end."""
        if not self.received_bytes:
            self.first_byte_at_s = time.perf_counter()
        self.received_bytes += len(data)
        while data and not self._has_head and self.exception() is None:
            # The parser loses a head when garbage follows it in the same piece; alone, its status stands.
            known = len(self._seam)
            end = (self._seam + data).find(b"\r\n\r\n") + 4 - known
            if end < 4 - known:
                self._seam = (self._seam + data)[-3:]
                end = len(data)
            else:
                self._seam = b""
            super().data_received(data[:end])
            data = data[end:]
        if data and self.exception() is None:
            super().data_received(data)
            if self.exception() is not None and self._body is not None and not self._body.is_eof():
                # aiohttp would let whoever reads it wait for nothing.
                self._body.set_exception(aiohttp.ClientPayloadError("the body's framing is broken"))
        if self.received_bytes > HEAD_BYTES_MAX and not self._has_head and self.exception() is None:
            self.set_exception(
                HeadTooLarge(f"More than {HEAD_BYTES_MAX} bytes came before the headers ended.")
            )
            if self.transport is not None:
                self.transport.abort()

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Takes a parsed head; an interim one (1xx) is not yet the answer's."""
        self._has_head = data[0].code >= 200
        self._body = data[1]
        super().feed_data(data, size)


class GuardedConnector(aiohttp.TCPConnector):
    """Dials only what the guard allows and hands out only clean connections.

    Args:
        idle_max: plain connections kept idle; idle_tls_max: those with TLS.
    """

    def __init__(
        self, guard: DialGuard, resolver: Resolver, tls: ssl.SSLContext, *, idle_max: int, idle_tls_max: int
    ) -> None:
        super().__init__(
            limit=0,
            limit_per_host=0,
            ssl=tls,
            resolver=_GuardedNames(guard, resolver),
            use_dns_cache=False,  # the resolver caches, and the guard must see every answer
            socket_factory=_choose_socket(guard),
            happy_eyeballs_delay=None,  # one dial after the other: the first refusal ends them
            keepalive_timeout=KEEP_ALIVE_S,
        )
        self._factory: Callable[[], Wire] = partial(Wire, self._loop)  # type: ignore[assignment]
        self._idle = {False: _IdleWires(idle_max), True: _IdleWires(idle_tls_max)}

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        """Returns a connection on which nothing has come in that was not asked for."""
        flight = CURRENT_FLIGHT.get()
        flight.enter(Stage.CONNECTING, flight.request.connect_timeout_ms / 1_000)
        began_at_s = time.perf_counter()
        idle = self._idle[req.is_ssl()]
        while True:
            connection = await super().connect(req, traces, timeout)
            wire = connection.protocol
            assert isinstance(wire, Wire)
            idle.forget(wire)
            is_reused = wire.uses > 0
            if not wire.should_close and not (is_reused and flight.must_dial):
                break
            connection.close()
            if not is_reused:
                raise SpokeFirst("The endpoint sent something before it was asked.")
        if not is_reused:
            flight.connect_s += time.perf_counter() - began_at_s
        flight.is_reused = is_reused
        flight.peer = wire.peer
        flight.wire = wire
        wire.begin()
        connection.add_callback(partial(idle.note, wire))
        flight.enter(Stage.WAITING)
        return connection


class _IdleWires:
    """The idle connections of one kind, least recently used first.

    Those that ended by themselves stay in it until their turn comes: whatever expired is older than
    whatever did not, so the order makes them go first.
    """

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._wires: OrderedDict[Wire, None] = OrderedDict()

    def forget(self, wire: Wire) -> None:
        """Takes out one that is used again."""
        self._wires.pop(wire, None)

    def note(self, wire: Wire) -> None:
        """Puts in one that was released, and closes the oldest above the mark."""
        if wire.should_close or not wire.is_connected():
            return
        self._wires[wire] = None
        if len(self._wires) > self._count_max:
            oldest, _ = self._wires.popitem(last=False)
            oldest.close()


class _GuardedNames(AbstractResolver):
    """Our resolver in aiohttp's form, with the guard behind it."""

    def __init__(self, guard: DialGuard, resolver: Resolver) -> None:
        self._guard = guard
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Returns the addresses when all of them may be dialled."""
        flight = CURRENT_FLIGHT.get()
        flight.stage = Stage.RESOLVING
        addresses = await self._resolver.resolve(host)
        self._guard.check_answers(addresses, port, needs_private=flight.needs_private)
        flight.stage = Stage.CONNECTING
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Leaves the resolver to whoever made it."""


def _choose_socket(guard: DialGuard) -> Callable[[AddrInfoType], socket.socket]:
    """Makes the socket factory that knows whether the present flight may go to private addresses only."""
    any_address = guarded_socket_factory(guard)
    private_only = guarded_socket_factory(guard, needs_private=True)

    def make_socket(addr_info: AddrInfoType) -> socket.socket:
        flight = CURRENT_FLIGHT.get()
        return private_only(addr_info) if flight.needs_private else any_address(addr_info)

    return make_socket
