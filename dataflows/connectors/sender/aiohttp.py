"""The compatible sender: aiohttp behind the `Sender` port, with our deadlines, redirect rule and limits.

It costs about 100 us of CPU per request, of which aiohttp's own Python is 70 %; `direct` takes a fifth. It
stays as the one that reads what sloppy servers write, and for proxies.

What aiohttp is not asked to do, because it does it in a way we cannot account for: redirects (it would turn
POST into GET), cookies, decompression, environment proxies, timeouts (it rounds deadlines of 5 s and more
up to whole seconds), and re-sending. A reused connection that dies before any byte of an answer is the one
case in which sending again at once is right: servers close idle connections when they like, and the
receiver recognises a repeat by its `webhook-id`. It happens once, on a new connection, and is counted.

Source: RFC 9112 section 9.3.1 (retrying), RFC 9110 section 15.4 (redirects); measurements in
docs/benchmarks.md.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import aiohttp
import structlog
from msgspec import Struct
from multidict import CIMultiDict
from yarl import URL

from dataflows.connectors.sender.aiohttp_connector import GuardedConnector
from dataflows.connectors.sender.dial_guard import DialGuard
from dataflows.connectors.sender.failures import Failure, UrlRefused, clean_text, explain
from dataflows.connectors.sender.flight import (
    BODY_BYTES_KEPT,
    BODY_BYTES_READ_MAX,
    BODY_TIME_S_MAX,
    CURRENT_FLIGHT,
    Flight,
    Stage,
)
from dataflows.connectors.sender.own_addresses import OwnAddresses
from dataflows.connectors.sender.resolver import Resolver
from dataflows.connectors.sender.sender_loop import SWEEP_S, OnDone, SenderLoop
from operators.address_rules import IpAddress
from operators.redirect import REDIRECT_STATUSES, Refusal, next_hop
from operators.target_url import DEFAULT_PORTS, UrlRefusal, check_target_url
from schemas.outcome import ErrorCode, Hop, PreparedRequest

URLS_KEPT: Final = 16_384
"""Parsed URLs, about 1 KB each; parsing one again costs 30 us."""
STOOD_STILL_S: Final = 1.0
"""A sweep that comes later than this was not kept away by work of ours."""
FAULT_KINDS_LOGGED_MAX: Final = 1_000

_log = structlog.get_logger()


class EgressPolicy(Struct, frozen=True):
    """Where requests may go, and what is kept open.

    Attributes:
        allow_private: development: also private addresses, and for those plain http and any port.
        ports: allowed without being private.
        idle_max, idle_tls_max: connections kept open without a request; a TLS one holds 125 KB.
    """

    allow_private: bool = False
    ports: frozenset[int] = DEFAULT_PORTS
    idle_max: int = 4_096
    idle_tls_max: int = 1_000


def open_aiohttp_sender(
    policy: EgressPolicy,
    *,
    tls: ssl.SSLContext | None = None,
    make_resolver: Callable[[], Resolver] | None = None,
    own_addresses: Callable[[], frozenset[IpAddress]] | None = None,
) -> SenderLoop:
    """Starts the sender's thread.

    Args:
        tls: whom to trust; the system's roots when None.
        make_resolver: called on the sender's loop.
        own_addresses: of our interfaces; asked of the kernel when None.

    Raises:
        Unavailable: it did not start.
    """

    async def open_carrier(done: OnDone) -> AiohttpCarrier:
        resolver = Resolver(time.monotonic) if make_resolver is None else make_resolver()
        guard = DialGuard(
            allow_private=policy.allow_private,
            own_addresses=OwnAddresses(time.monotonic) if own_addresses is None else own_addresses,
            ports=policy.ports,
        )
        return AiohttpCarrier(policy, guard, resolver, tls or default_tls(), done)

    return SenderLoop(open_carrier, "sender-aiohttp")


def default_tls() -> ssl.SSLContext:
    """Returns a context that trusts the system's roots and offers HTTP/1.1 only."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Target(Struct, frozen=True):
    """A URL that was checked, in the form the client takes."""

    url: URL
    needs_private: bool


class AiohttpCarrier:
    """Carries each request in a task of its own. Made and used on one event loop."""

    def __init__(
        self, policy: EgressPolicy, guard: DialGuard, resolver: Resolver, tls: ssl.SSLContext, done: OnDone
    ) -> None:
        self._policy = policy
        self._done = done
        self._resolver = resolver
        self._loop = asyncio.get_running_loop()
        self._flights: set[Flight] = set()
        self._swept_at_s = time.perf_counter()
        self._faults_logged: set[str] = set()
        self._target_of = lru_cache(URLS_KEPT)(self._check_url)
        self._session = aiohttp.ClientSession(
            connector=GuardedConnector(
                guard, resolver, tls, idle_max=policy.idle_max, idle_tls_max=policy.idle_tls_max
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(),  # none: the sweep ends what is late
            raise_for_status=False,
            trust_env=False,
            read_bufsize=4_096,
        )

    def start(self, request: PreparedRequest) -> None:
        """Starts a task for one request."""
        flight = Flight(request)
        self._flights.add(flight)
        flight.task = self._loop.create_task(self._fly(flight))

    def sweep(self) -> None:
        """Ends what is past its deadline, at once, whatever the client is doing.

        When the sweep itself comes far too late, the whole process stood still (SIGSTOP, a suspended machine,
        a starved host). Answers may have come meanwhile that nobody has read, so everybody gets that time
        back: else each of them would be sent again.
        """
        now_s = time.perf_counter()
        missed_s = now_s - self._swept_at_s - SWEEP_S
        self._swept_at_s = now_s
        if missed_s > STOOD_STILL_S:
            for flight in self._flights:
                flight.give_back(min(missed_s, now_s - flight.started_at_s))
        for flight in [flight for flight in self._flights if flight.due_at_s <= now_s]:
            flight.fail_late(now_s)
            self._end(flight)

    def abort(self, code: ErrorCode, detail: str) -> None:
        """Ends everything with this code; an answer whose status is known stays an answer."""
        for flight in list(self._flights):
            if flight.stage is Stage.READING:
                flight.is_body_truncated = True
            else:
                flight.fail(code, detail)
            self._end(flight)

    async def close(self) -> None:
        """Closes the connections and the resolver."""
        await asyncio.sleep(0)  # cancelled tasks give their connections back first
        await self._session.close()
        await self._resolver.close()

    def _end(self, flight: Flight) -> None:
        self._finish(flight)
        if flight.task is not None:
            flight.task.cancel()

    def _finish(self, flight: Flight) -> None:
        """Hands in the outcome, once: the sweep and the task may both come here."""
        if flight.is_finished:
            return
        flight.is_finished = True
        self._flights.discard(flight)
        self._done(flight.outcome())

    async def _fly(self, flight: Flight) -> None:
        CURRENT_FLIGHT.set(flight)
        try:
            await self._attempt(flight)
        except asyncio.CancelledError:
            # By `_end`, which handed the outcome in; else by the end of the loop.
            flight.fail(ErrorCode.OUR_SHUTDOWN, "We were stopping.")
        except Exception as error:  # noqa: BLE001 - the table decides, and what it does not know is logged
            failure = explain(error) or self._own_up(error)
            flight.fail(failure.code, failure.detail)
        self._finish(flight)

    async def _attempt(self, flight: Flight) -> None:
        """Asks, follows one redirect if that is right, and reads what counts."""
        request = flight.request
        while True:
            response = await self._ask(flight, request)
            try:
                following = self._note_head(flight, request, response)
                if following is None:
                    await _read_body(flight, response)
                    return
            finally:
                # A connection whose answer is not read to its end is of no use to anybody.
                if response.content.is_eof():
                    response.release()
                else:
                    response.close()
            request = following
            flight.requests_sent += 1
            flight.forget_answer()

    async def _ask(self, flight: Flight, request: PreparedRequest) -> aiohttp.ClientResponse:
        """Sends one request and waits for the headers; once more when a reused connection turns out dead."""
        target = self._target_of(request.url)
        if isinstance(target, UrlRefusal):
            raise UrlRefused(target.detail)
        flight.needs_private = target.needs_private
        flight.must_dial = False
        headers = CIMultiDict(request.headers)
        while True:
            try:
                return await self._session.post(
                    target.url, data=request.body, headers=headers, allow_redirects=False
                )
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                wire = flight.wire
                if flight.must_dial or not flight.is_reused or wire is None or wire.received_bytes:
                    raise
            flight.must_dial = True
            flight.requests_sent += 1
            flight.forget_answer()

    def _note_head(
        self, flight: Flight, request: PreparedRequest, response: aiohttp.ClientResponse
    ) -> PreparedRequest | None:
        """Notes the answer's head; returns the request that follows from it, if one does."""
        wire = flight.wire
        assert wire is not None
        status = response.status
        location = response.headers.get("location")
        if status in REDIRECT_STATUSES:
            following = next_hop(
                request,
                status,
                location,
                allow_private=self._policy.allow_private,
                ports=self._policy.ports,
                hop_count=len(flight.hops),
            )
            if not isinstance(following, Refusal):
                flight.hops += (Hop(request.url, status, following.url),)
                return following
            flight.fail(ErrorCode.REDIRECT_REFUSED, clean_text(following.detail))
        elif status < 200:
            flight.fail(ErrorCode.PROTOCOL_ERROR, f"The endpoint answered {status}, which nobody asked for.")
        flight.status = status
        flight.first_byte_s = wire.first_byte_at_s - flight.started_at_s
        flight.keep_headers(response.headers.items())
        flight.enter(Stage.READING, BODY_TIME_S_MAX)
        return None

    def _check_url(self, url: str) -> _Target | UrlRefusal:
        target = check_target_url(url, allow_private=self._policy.allow_private, ports=self._policy.ports)
        if isinstance(target, UrlRefusal):
            return target
        # `encoded`: it is in normal form, and must go out byte for byte as it was signed off.
        return _Target(URL(target.url, encoded=True), target.needs_private)

    def _own_up(self, error: Exception) -> Failure:
        """Takes the blame for what is not in the table; logs each kind once, for it may hit every request."""
        kind = f"{type(error).__name__}: {error}"
        if kind not in self._faults_logged and len(self._faults_logged) < FAULT_KINDS_LOGGED_MAX:
            self._faults_logged.add(kind)
            _log.error("sender_fault", exc_info=error)
        return Failure(ErrorCode.OUR_FAULT, clean_text(f"Our sender failed ({type(error).__name__})."))


async def _read_body(flight: Flight, response: aiohttp.ClientResponse) -> None:
    """Reads a little of the body as evidence. However it ends, the status has decided."""
    content = response.content
    received_bytes = 0
    while not content.at_eof():
        if received_bytes >= BODY_BYTES_READ_MAX:
            flight.is_body_truncated = True
            return
        try:
            piece = await content.readany()
        except (aiohttp.ClientError, OSError):
            flight.is_body_truncated = True
            return
        if len(flight.body) <= BODY_BYTES_KEPT:  # one more than is kept tells that there was more
            flight.body += piece[: BODY_BYTES_KEPT + 1 - len(flight.body)]
        received_bytes += len(piece)
