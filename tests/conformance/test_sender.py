"""The aiohttp sender under the contract of every sender."""

import ssl
import time

from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from dataflows.connectors.sender.resolver import Resolver
from dataflows.connectors.sender.sender_loop import SenderLoop
from tests.conformance.sender_contract import SenderContract


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
