"""The resolver against a real DNS server on loopback, with c-ares as it is."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import pytest

from dataflows.connectors.sender.resolver import DnsFailure, Resolver
from schemas.outcome import ErrorCode

TYPE_A, TYPE_CNAME, TYPE_SOA, TYPE_AAAA = 1, 5, 6, 28
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3


@dataclass
class Reply:
    """What the server says to one name: addresses with one TTL, a code, or nothing at all."""

    addresses: tuple[str, ...] = ()
    ttl_s: int = 60
    code: int = NOERROR
    is_silent: bool = False
    alias_ttl_s: int | None = None


@dataclass
class FakeDns(asyncio.DatagramProtocol):
    """A name server over UDP: answers from `zone`, NXDOMAIN (to be remembered for 600 s) for the rest."""

    zone: dict[str, Reply] = field(default_factory=dict)
    questions: Counter[tuple[str, int]] = field(default_factory=Counter)
    transport: asyncio.DatagramTransport | None = None
    kept_silent: asyncio.Event = field(default_factory=asyncio.Event)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    @property
    def nameserver(self) -> str:
        assert self.transport is not None
        host, port = self.transport.get_extra_info("sockname")
        return f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, at = _read_name(data)
        (kind,) = struct.unpack_from("!H", data, at)
        self.questions[name, kind] += 1
        reply = self.zone.get(name, Reply(code=NXDOMAIN))
        if reply.is_silent:
            self.kept_silent.set()
            return
        owner = b"\xc0\x0c"
        alias = b""
        if reply.alias_ttl_s is not None:
            name_of_alias = b"\x05alias\x04test\x00"
            alias = _record(owner, TYPE_CNAME, reply.alias_ttl_s, name_of_alias)
            owner = name_of_alias
        records = [alias] if alias else []
        records += [
            _record(owner, kind, reply.ttl_s, address.packed)
            for address in map(ip_address, reply.addresses)
            if kind == (TYPE_A if address.version == 4 else TYPE_AAAA)
        ]
        soa = _record(b"\x00", TYPE_SOA, 600, b"\x00\x00" + struct.pack("!IIIII", 1, 1, 1, 1, 600))
        counts = struct.pack("!HHHHH", 0x8180 | reply.code, 1, len(records), 0 if records else 1, 0)
        answer = data[:2] + counts + data[12 : at + 4] + b"".join(records or [soa])
        assert self.transport is not None
        self.transport.sendto(answer, addr)

    def asked(self, name: str) -> int:
        """How often the server was asked for the IPv4 addresses of a name."""
        return self.questions[name, TYPE_A]


def _read_name(data: bytes) -> tuple[str, int]:
    labels, at = [], 12
    while data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode().lower())
        at += 1 + data[at]
    return ".".join(labels), at + 1


def _record(owner: bytes, kind: int, ttl_s: int, value: bytes) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl_s, len(value)) + value


@dataclass
class Clock:
    """Seconds, moved by hand."""

    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


HOSTS_FILE = [
    (name.lower(), address)
    for address, *names in (
        line.split("#")[0].split() or [""] for line in Path("/etc/hosts").read_text().splitlines()
    )
    for name in names
    if ":" not in address
]

MakeResolver = Callable[..., Resolver]


@pytest.fixture
async def dns() -> AsyncIterator[FakeDns]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(FakeDns, local_addr=("127.0.0.1", 0))
    yield server
    transport.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def make_resolver(dns: FakeDns, clock: Clock) -> AsyncIterator[MakeResolver]:
    made = []

    def make(**options: object) -> Resolver:
        settings = {"nameservers": [dns.nameserver], "library_cache_s": 0.01} | options
        made.append(Resolver(clock, **settings))  # type: ignore[arg-type] # a test's shorthand
        return made[-1]

    yield make
    for resolver in made:
        await resolver.close()


@pytest.fixture
async def resolver(make_resolver: MakeResolver) -> Resolver:
    return make_resolver()


async def _failure(resolver: Resolver, host: str) -> DnsFailure:
    with pytest.raises(DnsFailure) as caught:
        await resolver.resolve(host)
    return caught.value


async def _until_asked_again(resolver: Resolver, dns: FakeDns, clock: Clock, name: str) -> None:
    """Lets our entry run out until c-ares, whose own cache is emptied by a thread, really asks."""
    before = dns.asked(name)
    while dns.asked(name) == before:
        clock.now_s += 301
        with contextlib.suppress(DnsFailure):
            await resolver.resolve(name)
        await asyncio.sleep(0)


async def test_ipv4_comes_first_in_numeric_order_without_repeats(resolver: Resolver, dns: FakeDns) -> None:
    addresses = ("2606:4700::2", "9.9.9.9", "2606:4700::1", "10.0.0.1", "9.9.9.9", "9.10.0.0")
    dns.zone["many.test"] = Reply(addresses)
    expected = ("9.9.9.9", "9.10.0.0", "10.0.0.1", "2606:4700::1", "2606:4700::2")
    assert await resolver.resolve("many.test") == expected


async def test_one_family_is_enough(resolver: Resolver, dns: FakeDns) -> None:
    dns.zone |= {"four.test": Reply(("9.9.9.9",)), "six.test": Reply(("2606:4700::1",))}
    assert await resolver.resolve("four.test") == ("9.9.9.9",)
    assert await resolver.resolve("six.test") == ("2606:4700::1",)


@pytest.mark.parametrize("literal", ["9.9.9.9", "127.0.0.1", "::1", "2606:4700::a"])
async def test_literals_are_returned_and_never_asked(resolver: Resolver, dns: FakeDns, literal: str) -> None:
    assert await resolver.resolve(literal) == (literal,)
    assert not dns.questions


@pytest.mark.parametrize(
    "spelling", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1.", "[::1]", "127.0.0.0x1"]
)
async def test_other_spellings_of_addresses_are_neither_read_nor_asked(
    resolver: Resolver, dns: FakeDns, spelling: str
) -> None:
    assert (await _failure(resolver, spelling)).code == ErrorCode.DNS_NOT_FOUND
    assert not dns.questions


async def test_localhost_and_the_hosts_file_are_answered_without_dns(
    resolver: Resolver, dns: FakeDns
) -> None:
    assert "127.0.0.1" in await resolver.resolve("localhost")
    assert "127.0.0.1" in await resolver.resolve("app.localhost")
    for name, address in HOSTS_FILE:
        assert address in await resolver.resolve(name)
    assert not dns.questions


async def test_callers_at_one_time_share_one_query(resolver: Resolver, dns: FakeDns) -> None:
    dns.zone["shared.test"] = Reply(("9.9.9.9",))
    answers = await asyncio.gather(*(resolver.resolve("shared.test") for _ in range(100)))
    assert set(answers) == {("9.9.9.9",)}
    assert dns.questions == {("shared.test", TYPE_A): 1, ("shared.test", TYPE_AAAA): 1}


async def test_a_cancelled_caller_does_not_cancel_the_others(resolver: Resolver, dns: FakeDns) -> None:
    dns.zone["shared.test"] = Reply(("9.9.9.9",))
    first = asyncio.create_task(resolver.resolve("shared.test"))
    second = asyncio.create_task(resolver.resolve("shared.test"))
    await asyncio.sleep(0)  # both tasks take their first step
    assert len(resolver._lookups) == 1
    first.cancel()
    assert await second == ("9.9.9.9",)
    assert first.cancelled()
    assert dns.asked("shared.test") == 1


@pytest.mark.parametrize(
    ("ttl_s", "kept_s"),
    [(0, 5), (1, 5), (5, 5), (60, 60), (300, 300), (301, 300), (86_400, 300)],
)
async def test_an_answer_lives_for_its_ttl_between_5_and_300_s(
    resolver: Resolver, dns: FakeDns, clock: Clock, ttl_s: int, kept_s: int
) -> None:
    dns.zone["ttl.test"] = Reply(("9.9.9.9",), ttl_s=ttl_s)
    await resolver.resolve("ttl.test")
    clock.now_s += kept_s - 0.5
    assert "ttl.test" in resolver._cache
    await resolver.resolve("ttl.test")
    assert dns.asked("ttl.test") == 1
    clock.now_s += 0.5
    assert "ttl.test" not in resolver._cache
    dns.zone["ttl.test"] = Reply(("9.9.9.10",), ttl_s=ttl_s)
    await _until_asked_again(resolver, dns, clock, "ttl.test")
    assert await resolver.resolve("ttl.test") == ("9.9.9.10",)


async def test_the_shortest_ttl_of_the_chain_counts(resolver: Resolver, dns: FakeDns, clock: Clock) -> None:
    dns.zone["www.test"] = Reply(("9.9.9.9",), ttl_s=200, alias_ttl_s=20)
    assert await resolver.resolve("www.test") == ("9.9.9.9",)
    clock.now_s += 19
    assert "www.test" in resolver._cache
    clock.now_s += 1
    assert "www.test" not in resolver._cache


async def test_a_missing_name_is_asked_again_after_5_s_whatever_its_soa_says(
    resolver: Resolver, dns: FakeDns, clock: Clock
) -> None:
    failure = await _failure(resolver, "new.test")
    assert (failure.code, failure.is_ours) == (ErrorCode.DNS_NOT_FOUND, False)
    assert "new.test" in str(failure)
    dns.zone["new.test"] = Reply(("9.9.9.9",))
    clock.now_s += 4.5
    await _failure(resolver, "new.test")
    assert dns.asked("new.test") == 1
    clock.now_s += 0.5
    await _until_asked_again(resolver, dns, clock, "new.test")
    assert await resolver.resolve("new.test") == ("9.9.9.9",)


async def test_a_name_without_addresses_is_not_found(resolver: Resolver, dns: FakeDns) -> None:
    dns.zone["mail-only.test"] = Reply(())
    assert (await _failure(resolver, "mail-only.test")).code == ErrorCode.DNS_NOT_FOUND


async def test_servfail_is_a_failure_and_theirs(resolver: Resolver, dns: FakeDns) -> None:
    dns.zone["lame.test"] = Reply(code=SERVFAIL)
    failure = await _failure(resolver, "lame.test")
    assert (failure.code, failure.is_ours) == (ErrorCode.DNS_FAILURE, False)


async def test_a_silent_server_is_a_timeout_and_delays_no_other_name(
    make_resolver: MakeResolver, dns: FakeDns
) -> None:
    resolver = make_resolver(lookup_timeout_s=0.3)
    dns.zone |= {"silent.test": Reply(is_silent=True), "quick.test": Reply(("9.9.9.9",))}
    slow = asyncio.create_task(_failure(resolver, "silent.test"))
    await dns.kept_silent.wait()
    assert await resolver.resolve("quick.test") == ("9.9.9.9",)
    assert not slow.done()
    failure = await slow
    assert (failure.code, failure.is_ours) == (ErrorCode.DNS_TIMEOUT, False)


async def test_no_server_listening_is_our_fault(make_resolver: MakeResolver) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        nameserver = f"127.0.0.1:{closed.getsockname()[1]}"
    failure = await _failure(make_resolver(nameservers=[nameserver], lookup_timeout_s=2.0), "any.test")
    assert (failure.code, failure.is_ours) == (ErrorCode.DNS_FAILURE, True)


async def test_the_search_list_and_host_aliases_are_not_used(
    make_resolver: MakeResolver, dns: FakeDns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    aliases = tmp_path / "aliases"
    aliases.write_text("shop evil.test\n")
    monkeypatch.setenv("LOCALDOMAIN", "corp.test")
    monkeypatch.setenv("HOSTALIASES", str(aliases))
    dns.zone |= {"shop.corp.test": Reply(("10.0.0.1",)), "evil.test": Reply(("10.0.0.2",))}
    assert (await _failure(make_resolver(), "shop")).code == ErrorCode.DNS_NOT_FOUND
    assert {name for name, _ in dns.questions} == {"shop"}


async def test_the_cache_is_bounded(make_resolver: MakeResolver, dns: FakeDns) -> None:
    resolver = make_resolver(cache_entries_max=10)
    dns.zone |= {f"n{number}.test": Reply(("9.9.9.9",)) for number in range(50)}
    for number in range(50):
        await resolver.resolve(f"n{number}.test")
    await asyncio.gather(*(_failure(resolver, f"missing{number}.test") for number in range(50)))
    assert len(resolver._cache) == 10
    assert not resolver._lookups


@pytest.mark.parametrize(
    "host", ["", ".", "a..b", "a" * 64 + ".test", "b\u00fccher.test", "a b", "x\x00y", "a" * 300]
)
async def test_what_is_no_name_is_not_found(resolver: Resolver, host: str) -> None:
    assert (await _failure(resolver, host)).code == ErrorCode.DNS_NOT_FOUND


async def test_no_thread_of_the_default_pool_is_used(resolver: Resolver, dns: FakeDns) -> None:
    dns.zone["a.test"] = Reply(("9.9.9.9",))
    await asyncio.gather(
        resolver.resolve("a.test"), resolver.resolve("localhost"), _failure(resolver, "b.test")
    )
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]


async def test_closing_ends_open_lookups_as_ours(make_resolver: MakeResolver, dns: FakeDns) -> None:
    resolver = make_resolver()
    dns.zone["silent.test"] = Reply(is_silent=True)
    waiting = asyncio.create_task(_failure(resolver, "silent.test"))
    await dns.kept_silent.wait()
    await resolver.close()
    failure = await waiting
    assert (failure.code, failure.is_ours) == (ErrorCode.DNS_FAILURE, True)
