"""Names to addresses: c-ares through aiodns, with a cache of our own in front.

The default thread pool is never asked: six names with a slow DNS server would fill it and stop look-ups of
every other endpoint. c-ares keeps any number of queries open on one thread, reads /etc/hosts and answers
`localhost` as getaddrinfo does, and gives the answers' TTLs, which getaddrinfo does not.

The cache is ours because its rules are: a positive answer lives for its TTL, clamped to 5..300 s (below, a
TTL of 0 means a query per connection; above, a customer who moves waits for hours), a failure for 5 s (so
that a mended name works at once, and a storm of retries asks once). Callers that ask for one name at one
time share one query. A caller that goes away does not cancel the query of the others.

c-ares has a cache of its own, up to an hour and also for names that do not exist, which pycares cannot turn
off. It would undo both bounds, so it is emptied shortly after it was filled (`_FlushableResolver`).

The search list of resolv.conf is not used: `shop` must not become `shop.prod.svc.cluster.local`, an address
the customer has no business to reach. HOSTALIASES neither.

What is *not* here: whether an address may be dialled (`dial_guard`), and IP literals (they are returned as
they are; the guard sees them at the dial).

Source: RFC 2308 (negative caching), RFC 8767 (clamping); c-ares 1.34 `ares_qcache.c`.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final

import aiodns
import pycares
from cachetools import TLRUCache
from msgspec import Struct

from schemas.errors import HooktideError
from schemas.outcome import ErrorCode

POSITIVE_TTL_S_MIN: Final = 5.0
POSITIVE_TTL_S_MAX: Final = 300.0
NEGATIVE_TTL_S: Final = 5.0
CACHE_ENTRIES_MAX: Final = 65_536
"""About 300 B each, so 20 MB; a process with more hosts asks again for the least recently used ones."""
LIBRARY_CACHE_S: Final = 2.5
"""How long c-ares may answer from its own cache: below our shortest, so that an expired entry is asked."""
LOOKUP_TIMEOUT_S: Final = 5.0
"""Precedent: Smokescreen 5 s. The attempt's own connect timeout is usually what ends it."""

_TRIES: Final = 2
_ENDS_IN_A_NUMBER: Final = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?$")
_NAME_IS_WRONG: Final = frozenset(
    {
        pycares.errno.ARES_ENOTFOUND,
        pycares.errno.ARES_ENODATA,
        pycares.errno.ARES_ENONAME,
        pycares.errno.ARES_EBADNAME,
    },
)
_WE_ARE_WRONG: Final = frozenset(
    {
        pycares.errno.ARES_ECONNREFUSED,  # no name server of ours is listening
        pycares.errno.ARES_EFILE,
        pycares.errno.ARES_ENOMEM,
        pycares.errno.ARES_ECANCELLED,
        pycares.errno.ARES_EDESTRUCTION,
        pycares.errno.ARES_ENOTINITIALIZED,
    },
)


class DnsFailure(HooktideError):  # noqa: N818 - the name is the field's word
    """A name was not resolved.

    Attributes:
        code: `dns_not_found` (no such name, or no address), `dns_timeout`, or `dns_failure` (SERVFAIL, ...).
        is_ours: our resolver or this machine is the cause: no attempt, nothing for the breaker.
    """

    def __init__(self, host: str, code: ErrorCode, detail: str, *, is_ours: bool) -> None:
        super().__init__(f"{host}: {detail}")
        self.host = host
        self.code = code
        self.is_ours = is_ours


class _Answer(Struct, frozen=True):
    """One cache entry: addresses, or why there are none."""

    addresses: tuple[str, ...]
    ttl_s: float
    code: ErrorCode = ErrorCode.NONE
    detail: str = ""
    is_ours: bool = False


class _FlushableResolver(aiodns.DNSResolver):
    """aiodns, and a way to empty the cache of c-ares: rereading its configuration is the one it offers."""

    def flush(self) -> None:
        self._channel.reinit()


class Resolver:
    """Resolves names for the sender. Made and used on one event loop.

    Args:
        clock: monotonic seconds.
        lookup_timeout_s: for one name, all servers and tries together.
        nameservers: `address:port`; those of resolv.conf when None.
        cache_entries_max: names kept.
        library_cache_s: see `LIBRARY_CACHE_S`.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        lookup_timeout_s: float = LOOKUP_TIMEOUT_S,
        nameservers: Sequence[str] | None = None,
        cache_entries_max: int = CACHE_ENTRIES_MAX,
        library_cache_s: float = LIBRARY_CACHE_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._lookup_timeout_s = lookup_timeout_s
        self._library_cache_s = library_cache_s
        self._cache: TLRUCache[str, _Answer] = TLRUCache(cache_entries_max, ttu=_expires_at_s, timer=clock)
        self._lookups: dict[str, asyncio.Task[_Answer]] = {}
        self._flush_timer: asyncio.TimerHandle | None = None
        self._dns = _FlushableResolver(
            nameservers,
            loop=self._loop,
            # c-ares doubles it on each try: a third and two thirds make the whole.
            timeout=lookup_timeout_s / (2**_TRIES - 1),
            tries=_TRIES,
            flags=pycares.ARES_FLAG_NOSEARCH | pycares.ARES_FLAG_NOALIASES | pycares.ARES_FLAG_EDNS,
        )

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Returns the addresses of a name: IPv4 before IPv6, each in numeric order, without repeats.

        Args:
            host: a name as in `TargetUrl.host`, or a literal, which is returned as it is.

        Raises:
            DnsFailure: when there is no address.
        """
        if ":" in host or _ENDS_IN_A_NUMBER.search(host):
            return (_checked_literal(host),)
        answer = self._cache.get(host)
        if answer is None:
            lookup = self._lookups.get(host)
            if lookup is None:
                lookup = self._loop.create_task(self._look_up(host))
                self._lookups[host] = lookup
            answer = await asyncio.shield(lookup)
        if answer.code:
            raise DnsFailure(host, answer.code, answer.detail, is_ours=answer.is_ours)
        return answer.addresses

    async def close(self) -> None:
        """Ends what is open (its callers get a failure that is ours) and frees the channel."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        await self._dns.close()
        if self._lookups:
            await asyncio.wait(self._lookups.values())
        if self._flush_timer is not None:
            self._flush_timer.cancel()

    async def _look_up(self, host: str) -> _Answer:
        """Asks and remembers. Never raises: a failure is an answer too."""
        try:
            answer = await self._ask(host)
            self._cache[host] = answer
            return answer
        finally:
            del self._lookups[host]
            if self._flush_timer is None:
                self._flush_timer = self._loop.call_later(self._library_cache_s, self._flush)

    async def _ask(self, host: str) -> _Answer:
        try:
            async with asyncio.timeout(self._lookup_timeout_s):
                found = await self._dns.getaddrinfo(host, type=socket.SOCK_STREAM)
        except TimeoutError:
            return _failed(ErrorCode.DNS_TIMEOUT, f"no answer within {self._lookup_timeout_s:g} s")
        except aiodns.error.DNSError as error:
            return _explain(*error.args)
        except UnicodeError:
            # Only a host that never passed `check_target_url` gets here.
            return _failed(ErrorCode.DNS_NOT_FOUND, "no domain name")
        addresses = {str(node.addr[0], "ascii") for node in found.nodes}
        if not addresses:
            return _failed(ErrorCode.DNS_NOT_FOUND, "the name has no address")
        ttl_s = min([node.ttl for node in found.nodes] + [alias.ttl for alias in found.cnames])
        return _Answer(
            addresses=tuple(sorted(addresses, key=_address_order)),
            ttl_s=min(max(float(ttl_s), POSITIVE_TTL_S_MIN), POSITIVE_TTL_S_MAX),
        )

    def _flush(self) -> None:
        self._flush_timer = None
        self._dns.flush()


def _expires_at_s(_host: str, answer: _Answer, now_s: float) -> float:
    return now_s + answer.ttl_s


def _checked_literal(host: str) -> str:
    """Lets canonical literals through only: c-ares reads `0177.0.0.1` as 177.0.0.1, inet_aton as 127."""
    try:
        ip_address(host)
    except ValueError as error:
        raise DnsFailure(
            host, ErrorCode.DNS_NOT_FOUND, "neither a name nor an address", is_ours=False
        ) from error
    return host


def _address_order(address: str) -> tuple[int, int]:
    parsed = ip_address(address)
    return parsed.version, int(parsed)


def _explain(number: int, message: str) -> _Answer:
    if number in _NAME_IS_WRONG:
        return _failed(ErrorCode.DNS_NOT_FOUND, message)
    if number == pycares.errno.ARES_ETIMEOUT:
        return _failed(ErrorCode.DNS_TIMEOUT, message)
    return _failed(ErrorCode.DNS_FAILURE, message, is_ours=number in _WE_ARE_WRONG)


def _failed(code: ErrorCode, detail: str, *, is_ours: bool = False) -> _Answer:
    return _Answer(addresses=(), ttl_s=NEGATIVE_TTL_S, code=code, detail=detail, is_ours=is_ours)
