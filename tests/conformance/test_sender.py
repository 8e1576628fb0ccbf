"""The aiohttp sender under the contract of every sender."""

import asyncio
import ssl
import threading
import time

from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from dataflows.connectors.sender.resolver import Resolver
from dataflows.connectors.sender.sender_loop import SenderLoop
from tests.conformance.scripted_server import OK, Peer, ScriptedServer
from tests.conformance.sender_contract import SenderContract, collect, post, send


class TestAiohttpSender(SenderContract):
    """See the contract."""

    def open_sender(
        self,
        *,
        allow_private: bool = True,
        ports: frozenset[int] = frozenset({80, 443}),
        tls: ssl.SSLContext | None = None,
        nameserver: str | None = None,
        lookup_timeout_s: float = 5.0,
    ) -> SenderLoop:
        def make_resolver() -> Resolver:
            servers = None if nameserver is None else [nameserver]
            return Resolver(time.monotonic, nameservers=servers, lookup_timeout_s=lookup_timeout_s)

        policy = EgressPolicy(allow_private=allow_private, ports=ports)
        return open_aiohttp_sender(policy, tls=tls, make_resolver=make_resolver)

    def test_idle_connections_are_bounded_and_the_oldest_goes_first(self) -> None:
        all_here = asyncio.Event()

        async def together(peer: Peer) -> None:
            await peer.request()
            if len(peer.server.seen) == 5:
                all_here.set()
            await all_here.wait()  # five at once need five connections
            await peer.say(OK)
            await peer.answer_all()

        open_now = 0

        async def counting(peer: Peer) -> None:
            nonlocal open_now
            open_now += 1
            try:
                await together(peer)
            finally:
                open_now -= 1

        with ScriptedServer(counting) as server:
            sender = open_aiohttp_sender(EgressPolicy(allow_private=True, idle_max=2))
            sender.submit([post(server.url("/all"), number) for number in range(5)])
            assert {outcome.status for outcome in collect(sender, 5)} == {200}
            give_up_at = time.monotonic() + 5
            while open_now > 2 and time.monotonic() < give_up_at:
                threading.Event().wait(0.01)
            assert open_now == 2
            assert send(sender, post(server.url("/one"))).is_reused_connection
            sender.close(0.0)
