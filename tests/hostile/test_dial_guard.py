"""Can a URL or a DNS answer make us connect to a forbidden address? A canary counts what it gets.

The canary is a real listener on loopback and the client is a real aiohttp one with the guarded connector,
with nothing in front of the guard: no URL rules, no look at a name's answers. Then the same with
`allow_private`, where the canary must sing, or the silence before proved nothing.
"""

import asyncio
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from dataflows.connectors.sender import own_addresses
from dataflows.connectors.sender.dial_guard import DialGuard, EgressRefused, guarded_socket_factory
from dataflows.connectors.sender.own_addresses import OwnAddresses, own_interface_addresses
from dataflows.connectors.sender.resolver import DnsFailure, Resolver
from operators.address_rules import IpAddress
from operators.target_url import TargetUrl, check_target_url

PUBLIC = "93.184.216.34"  # never dialled here: each test refuses it before, or does not get as far

# Spellings of loopback that reach the canary on IPv4 when nothing stops them.
V4_SPELLINGS = (
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "127.000.000.001",
    "\uff11\uff12\uff17.0.0.1",
    "127\u30020\u30020\u30021",
    "\u2460\u2461\u2466.0.0.1",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:1]",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "app.localhost",
)
# Spellings of addresses that are forbidden even with allow_private; some lead to this machine on Linux.
ALWAYS_SILENT = (
    "0.0.0.0",
    "0",
    "0x0",
    "[::]",
    "[::127.0.0.1]",
    "[::ffff:0.0.0.0]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "169.254.169.254",
    "[::ffff:169.254.169.254]",
    "[fe80::1%25lo]",
    "[fd00:ec2::254]",
)


@dataclass
class Canary:
    """A listener that answers 200 to whatever it hears and counts."""

    port: int = 0
    connections: int = 0
    has_v6: bool = False
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def sing(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    canary = Canary()
    server = await asyncio.start_server(canary.sing, "127.0.0.1", 0)
    canary.port = server.sockets[0].getsockname()[1]
    servers = [server]
    try:
        servers.append(await asyncio.start_server(canary.sing, "::1", canary.port))
        canary.has_v6 = True
    except OSError:
        pass  # a machine without IPv6: its loopback cannot be reached either
    yield canary
    for running in servers:
        running.close()
        await running.wait_closed()


@dataclass
class ScriptedResolver(AbstractResolver):
    """What aiohttp asks: each name gets the next of its scripted answers, for ever round."""

    answers: Sequence[tuple[str, ...]]
    asked: int = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        answer = self.answers[self.asked % len(self.answers)]
        self.asked += 1
        return [_result(host, address, port, family) for address in answer]

    async def close(self) -> None:
        pass


@dataclass
class OurResolver(AbstractResolver):
    """Our own resolver in aiohttp's form."""

    resolver: Resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            addresses = await self.resolver.resolve(host)
        except DnsFailure as failure:
            raise OSError(str(failure)) from failure
        return [_result(host, address, port, family) for address in addresses]

    async def close(self) -> None:
        await self.resolver.close()


def _result(host: str, address: str, port: int, family: socket.AddressFamily) -> ResolveResult:
    return {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}


def _clock() -> float:
    return 0.0


def make_guard(*, allow_private: bool) -> DialGuard:
    return DialGuard(allow_private=allow_private, own_addresses=OwnAddresses(_clock))


@asynccontextmanager
async def client(
    guard: DialGuard, resolver: AbstractResolver | None = None, *, needs_private: bool = False
) -> AsyncIterator[aiohttp.ClientSession]:
    resolver = resolver or OurResolver(Resolver(_clock))
    connector = aiohttp.TCPConnector(
        socket_factory=guarded_socket_factory(guard, needs_private=needs_private),
        resolver=resolver,
        use_dns_cache=False,
        happy_eyeballs_delay=None,
    )
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
        yield session
    await resolver.close()


async def post(session: aiohttp.ClientSession, url: URL | str) -> int:
    async with session.post(url, data=b"{}", allow_redirects=False) as response:
        return response.status


@pytest.mark.parametrize("host", [*V4_SPELLINGS, "[::1]", "[0:0:0:0:0:0:0:1]", *ALWAYS_SILENT])
@pytest.mark.parametrize("encoded", [False, True])
async def test_no_spelling_reaches_the_canary(canary: Canary, host: str, *, encoded: bool) -> None:
    """`encoded` hands the spelling to aiohttp as it is, without yarl's mapping and checks."""
    async with client(make_guard(allow_private=False)) as session:
        with pytest.raises((EgressRefused, aiohttp.ClientError, ValueError, OSError)):
            await post(session, URL(f"http://{host}:{canary.port}/", encoded=encoded))
    assert canary.connections == 0


@pytest.mark.parametrize("host", V4_SPELLINGS)
async def test_with_allow_private_every_spelling_reaches_it(canary: Canary, host: str) -> None:
    target = check_target_url(f"http://{host}:{canary.port}/", allow_private=True)
    assert isinstance(target, TargetUrl)
    async with client(make_guard(allow_private=True), needs_private=target.needs_private) as session:
        assert await post(session, URL(target.url, encoded=True)) == 200
    assert canary.connections == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "localhost"])
async def test_the_silence_is_the_guards_doing(canary: Canary, host: str) -> None:
    """The same raw spellings sing as soon as the guard lets them: nothing else keeps them quiet."""
    async with client(make_guard(allow_private=True)) as session:
        assert await post(session, URL(f"http://{host}:{canary.port}/", encoded=True)) == 200
    assert canary.connections == 1


async def test_with_allow_private_ipv6_loopback_reaches_it(canary: Canary) -> None:
    if not canary.has_v6:
        pytest.skip("this machine has no IPv6 loopback")
    async with client(make_guard(allow_private=True), needs_private=True) as session:
        assert await post(session, f"http://[::1]:{canary.port}/") == 200
    assert canary.connections == 1


@pytest.mark.parametrize("host", ALWAYS_SILENT)
async def test_allow_private_opens_no_forbidden_address(canary: Canary, host: str) -> None:
    async with client(make_guard(allow_private=True)) as session:
        with pytest.raises((EgressRefused, aiohttp.ClientError, ValueError, OSError)):
            await post(session, URL(f"http://{host}:{canary.port}/", encoded=True))
    assert canary.connections == 0


async def test_an_answer_that_changes_after_the_check_is_refused_at_the_dial(canary: Canary) -> None:
    """Rebinding: the check of the name sees a public address, the dial another one, many times."""
    guard = make_guard(allow_private=False)
    guard.check_answers([PUBLIC], 443, needs_private=False)
    forbidden = ("127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254", "64:ff9b::7f00:1")
    resolver = ScriptedResolver([(address,) for address in forbidden])
    async with client(guard, resolver) as session:
        for _ in range(10_000):
            with pytest.raises(EgressRefused):
                await post(session, f"http://rebound.example:{canary.port}/")
    assert resolver.asked == 10_000
    assert canary.connections == 0


async def test_a_refused_answer_ends_the_dial_though_a_later_one_would_do(canary: Canary) -> None:
    """After an OSError aiohttp goes on to the next address; a refusal is none."""
    resolver = ScriptedResolver([("169.254.169.254", "127.0.0.1")])
    async with client(make_guard(allow_private=True), resolver) as session:
        with pytest.raises(EgressRefused) as caught:
            await post(session, f"http://mixed.example:{canary.port}/")
    assert caught.value.rule == "metadata"
    assert caught.value.address == "169.254.169.254"
    assert canary.connections == 0


async def test_after_a_refusal_the_session_still_works(canary: Canary) -> None:
    resolver = ScriptedResolver([("169.254.169.254",), ("127.0.0.1",)])
    async with client(make_guard(allow_private=True), resolver) as session:
        for _ in range(50):
            with pytest.raises(EgressRefused):
                await post(session, f"http://flapping.example:{canary.port}/")
            assert await post(session, f"http://flapping.example:{canary.port}/") == 200
    assert canary.connections == 50


@pytest.mark.parametrize("answers", list(itertools.permutations([PUBLIC, "1.1.1.1", "127.0.0.1"])))
def test_one_forbidden_answer_refuses_the_name(answers: tuple[str, ...]) -> None:
    with pytest.raises(EgressRefused) as caught:
        make_guard(allow_private=False).check_answers(answers, 443, needs_private=False)
    assert caught.value.rule == "loopback"
    assert "127.0.0.1" in caught.value.reason
    assert "127.0.0.1" not in caught.value.detail  # what a customer sees names no address of ours


def test_a_name_without_answers_is_refused() -> None:
    with pytest.raises(EgressRefused):
        make_guard(allow_private=True).check_answers([], 443, needs_private=False)


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize(
    ("port", "needs_private", "is_allowed"),
    [(443, False, True), (80, False, True), (443, True, False), (80, True, False), (8443, False, False)],
)
def test_plain_http_and_odd_ports_never_go_to_a_public_address(
    port: int, *, needs_private: bool, is_allowed: bool, allow_private: bool
) -> None:
    guard = make_guard(allow_private=allow_private)
    if is_allowed:
        guard.check(PUBLIC, port, needs_private=needs_private)
        return
    for check in (guard.check, lambda address, *rest, **more: guard.check_answers([address], *rest, **more)):
        with pytest.raises(EgressRefused) as caught:
            check(PUBLIC, port, needs_private=needs_private)
        assert caught.value.rule == "needs_private"


async def test_the_factory_holds_the_condition_at_the_dial() -> None:
    async with client(make_guard(allow_private=True), needs_private=True) as session:
        with pytest.raises(EgressRefused) as caught:
            await post(session, f"http://{PUBLIC}/")
    assert caught.value.rule == "needs_private"


def test_only_ip_sockets_are_made() -> None:
    factory = guarded_socket_factory(make_guard(allow_private=True))
    with pytest.raises(EgressRefused):
        factory((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("/run/some.sock",)))


def test_all_our_own_addresses_are_refused() -> None:
    guard = make_guard(allow_private=False)
    own = own_interface_addresses()
    assert IPv4Address("127.0.0.1") in own
    for address in own:
        with pytest.raises(EgressRefused):
            guard.check(str(address), 443, needs_private=False)


@pytest.mark.parametrize("allow_private", [False, True])
def test_a_public_address_of_ours_is_refused(*, allow_private: bool) -> None:
    own: frozenset[IpAddress] = frozenset({IPv4Address(PUBLIC), IPv6Address("2606:4700::1111")})
    guard = DialGuard(allow_private=allow_private, own_addresses=lambda: own)
    for address in (PUBLIC, f"::ffff:{PUBLIC}", "2606:4700::1111", f"64:ff9b::{PUBLIC}"):
        with pytest.raises(EgressRefused):
            guard.check(address, 443, needs_private=False)
    guard.check("93.184.216.35", 443, needs_private=False)


def test_the_kernel_names_the_address_that_a_local_socket_has() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", 9))  # a datagram socket sends nothing by connecting
        assert IPv4Address(probe.getsockname()[0]) in own_interface_addresses()


def test_own_addresses_are_read_again_after_30_s() -> None:
    now_s = 0.0
    addresses = OwnAddresses(lambda: now_s)
    first = addresses()
    now_s = 29.9
    assert addresses() is first
    now_s = 30.0
    second = addresses()
    assert second is not first
    assert second == first
    assert addresses() is second


def test_on_a_point_to_point_link_the_local_end_is_ours() -> None:
    head = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 7)
    peer = struct.pack("=HH4s", 8, 1, IPv4Address("10.9.0.1").packed)
    local = struct.pack("=HH4s", 8, 2, IPv4Address("10.9.0.2").packed)
    assert list(own_addresses._message_addresses(head + peer + local)) == [IPv4Address("10.9.0.2")]
    assert list(own_addresses._message_addresses(head + peer)) == [IPv4Address("10.9.0.1")]
    assert list(own_addresses._message_addresses(head)) == []
