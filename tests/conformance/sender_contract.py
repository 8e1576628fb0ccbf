"""What every sender must do on the wire, against a server that misbehaves on purpose.

A sender passes by subclassing `SenderContract` and saying how it is opened. Nothing here knows which client
is behind the port; where clients may honestly differ (is a head cut by a close a reset or a protocol error?)
the test names the set.
"""

import abc
import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trustme

from dataflows.connectors.sender.port import Sender
from schemas.outcome import ErrorCode, Outcome, PreparedRequest
from tests.conformance.scripted_server import OK, Peer, ScriptedServer, answer

HEADERS = (
    ("content-type", "application/json"),
    ("user-agent", "Hooktide/test"),
    ("accept-encoding", "identity"),
    ("webhook-id", "evt_1"),
    ("webhook-timestamp", "1750000000"),
    ("webhook-signature", "v1,AAAA"),
    ("X-Own-Header", "as Given"),
    ("x-second", "2"),
)
BODY = '{"id":"evt_1","data":"\u20ac \\u0000"}'.encode()
SWEEP_LATE_S = 0.3
"""How late a deadline may be noticed, by the port's promise."""
MACHINE_LATE_S = 1.0
"""And how late a loaded machine may be on top."""

_tick = threading.Event()


def post(
    url: str,
    number: int = 0,
    *,
    body: bytes = BODY,
    own_headers: int = 2,
    total_timeout_ms: int = 10_000,
    connect_timeout_ms: int = 5_000,
    follow_redirect: bool = True,
) -> PreparedRequest:
    return PreparedRequest(
        (7, number),
        "ep_1",
        url,
        HEADERS,
        own_headers,
        body,
        connect_timeout_ms,
        total_timeout_ms,
        follow_redirect,
    )


def collect(sender: Sender, count: int, timeout_s: float = 15.0) -> list[Outcome]:
    """Collects until so many outcomes are there."""
    outcomes: list[Outcome] = []
    give_up_at = time.monotonic() + timeout_s
    while len(outcomes) < count:
        outcomes += sender.collect()
        assert time.monotonic() < give_up_at, f"{len(outcomes)} of {count} outcomes within {timeout_s} s"
        _tick.wait(0.002)
    return outcomes


def send(sender: Sender, request: PreparedRequest, timeout_s: float = 15.0) -> Outcome:
    """Sends one and waits for its outcome."""
    sender.submit([request])
    (outcome,) = collect(sender, 1, timeout_s)
    assert outcome.token == request.token
    assert sender.in_flight_count == 0
    assert outcome.finished_at_ms >= outcome.started_at_ms
    return outcome


def free_port() -> int:
    """Returns a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


class SenderContract(abc.ABC):
    """The suite."""

    @abc.abstractmethod
    def open_sender(
        self,
        *,
        allow_private: bool = True,
        ports: frozenset[int] = frozenset({80, 443}),
        tls: ssl.SSLContext | None = None,
        nameserver: str | None = None,
        lookup_timeout_s: float = 5.0,
    ) -> Sender:
        """Opens the sender under test."""

    @contextmanager
    def opened(
        self,
        *,
        allow_private: bool = True,
        ports: frozenset[int] = frozenset({80, 443}),
        tls: ssl.SSLContext | None = None,
        nameserver: str | None = None,
        lookup_timeout_s: float = 5.0,
    ) -> Iterator[Sender]:
        sender = self.open_sender(
            allow_private=allow_private,
            ports=ports,
            tls=tls,
            nameserver=nameserver,
            lookup_timeout_s=lookup_timeout_s,
        )
        try:
            yield sender
        finally:
            sender.close(0.0)
            assert sender.collect(100_000) == []

    @pytest.fixture
    def sender(self) -> Iterator[Sender]:
        with self.opened() as sender:
            yield sender

    # --- the request ----------------------------------------------------------------------------------------

    def test_the_request_is_on_the_wire_as_it_was_prepared(self, sender: Sender) -> None:
        with ScriptedServer(Peer.answer_all) as server:
            outcome = send(sender, post(server.url("/a//b/../%7Ec?q=%20&r")))
            (seen,) = server.seen
        assert outcome.status == 200
        assert seen.line == "POST /a//b/../%7Ec?q=%20&r HTTP/1.1"
        assert seen.body == BODY
        framing = {"host": f"127.0.0.1:{server.port}", "content-length": str(len(BODY))}
        assert {name.lower(): value for name, value in seen.headers if name.lower() in framing} == framing
        ours = [(name, value) for name, value in seen.headers if name.lower() not in framing]
        assert tuple(ours) == HEADERS

    @pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_000])
    def test_bodies_of_any_size_arrive_whole(self, sender: Sender, size: int) -> None:
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        with ScriptedServer(Peer.answer_all) as server:
            assert send(sender, post(server.url(), body=body)).status == 200
            assert server.seen[0].body == body

    def test_an_idle_connection_is_used_again(self, sender: Sender) -> None:
        with ScriptedServer(Peer.answer_all) as server:
            outcomes = [send(sender, post(server.url(), number)) for number in range(5)]
            assert server.connection_count == 1
        assert [outcome.is_reused_connection for outcome in outcomes] == [False, True, True, True, True]
        assert outcomes[0].connect_us > 0
        assert {outcome.connect_us for outcome in outcomes[1:]} == {0}
        assert {outcome.peer for outcome in outcomes} == {f"127.0.0.1:{server.port}"}

    def test_connection_close_is_obeyed(self, sender: Sender) -> None:
        async def closing(peer: Peer) -> None:
            await peer.request()
            await peer.say(answer(200, "Connection: close"))

        with ScriptedServer(closing) as server:
            outcomes = [send(sender, post(server.url(), number)) for number in range(3)]
            assert server.connection_count == 3
        assert {(outcome.status, outcome.requests_sent) for outcome in outcomes} == {(200, 1)}

    # --- the answer -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "status", [200, 201, 202, 204, 299, 300, 304, 400, 404, 408, 410, 429, 500, 503, 599]
    )
    def test_the_status_is_reported(self, sender: Sender, status: int) -> None:
        raw = b"HTTP/1.1 204 No Content\r\n\r\n" if status == 204 else answer(status)
        with ScriptedServer(lambda peer: peer.answer_all(raw)) as server:
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.error_code, outcome.error_detail) == (status, ErrorCode.NONE, "")

    def test_204_has_no_body_and_keeps_the_connection(self, sender: Sender) -> None:
        with ScriptedServer(lambda peer: peer.answer_all(b"HTTP/1.1 204 No Content\r\n\r\n")) as server:
            outcomes = [send(sender, post(server.url(), number)) for number in range(2)]
            assert server.connection_count == 1
        assert outcomes[1].is_reused_connection
        assert outcomes[1].body == b""

    def test_selected_headers_are_kept_in_lower_case_and_cut(self, sender: Sender) -> None:
        raw = answer(
            503,
            "Content-Type: text/plain; charset=x",
            "RETRY-AFTER: 120",
            "Server: s" + "s" * 300,
            "Date: Sun, 01 Jun 2025 00:00:00 GMT",
            "X-Request-Id: r1",
            "Request-Id: r2",
            "Traceparent: 00-1",
            "Location: /elsewhere",
            "Set-Cookie: secret=1",
            "X-Other: 1",
            "Retry-After: 999",
        )
        with ScriptedServer(lambda peer: peer.answer_all(raw)) as server:
            outcome = send(sender, post(server.url()))
        assert dict(outcome.headers) == {
            "content-length": "0",
            "content-type": "text/plain; charset=x",
            "retry-after": "120",
            "server": "s" * 256,
            "date": "Sun, 01 Jun 2025 00:00:00 GMT",
            "x-request-id": "r1",
            "request-id": "r2",
            "traceparent": "00-1",
            "location": "/elsewhere",
        }

    def test_bytes_that_are_no_text_do_no_harm(self, sender: Sender) -> None:
        head = b"HTTP/1.1 200 \xff\xfe\xe2\x82\r\nServer: \xff\xe2\x82\r\nX-A: \x80\r\n"
        raw = head + b"Content-Length: 2\r\n\r\n\xff\x00"
        with ScriptedServer(lambda peer: peer.answer_all(raw)) as server:
            outcome = send(sender, post(server.url()))
        assert outcome.status == 200
        assert outcome.body == b"\xff\x00"
        dict(outcome.headers)["server"].encode("utf-8")  # raises on a lone surrogate

    def test_an_empty_reason_is_fine(self, sender: Sender) -> None:
        with ScriptedServer(
            lambda peer: peer.answer_all(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n")
        ) as server:
            assert send(sender, post(server.url())).status == 200

    def test_http_1_0_is_fine(self, sender: Sender) -> None:
        async def old(peer: Peer) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.0 200 OK\r\n\r\nbody until the end")

        with ScriptedServer(old) as server:
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.body, outcome.is_body_truncated) == (
            200,
            b"body until the end",
            False,
        )

    def test_a_chunked_body_is_joined_and_the_connection_kept(self, sender: Sender) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw = head + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n"
        with ScriptedServer(lambda peer: peer.answer_all(raw)) as server:
            outcomes = [send(sender, post(server.url(), number)) for number in range(2)]
            assert server.connection_count == 1
        assert [(outcome.body, outcome.is_body_truncated) for outcome in outcomes] == [(b"abcde", False)] * 2

    def test_a_compressed_body_is_left_as_it_is(self, sender: Sender) -> None:
        raw = answer(200, "Content-Encoding: gzip", body=b"\x1f\x8bnot really")
        with ScriptedServer(lambda peer: peer.answer_all(raw)) as server:
            assert send(sender, post(server.url())).body == b"\x1f\x8bnot really"

    def test_interim_answers_are_skipped(self, sender: Sender) -> None:
        async def polite(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.say(
                    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK
                )

        with ScriptedServer(polite) as server:
            outcomes = [send(sender, post(server.url(), number)) for number in range(2)]
        assert [outcome.status for outcome in outcomes] == [200, 200]

    def test_a_switch_of_protocols_is_no_answer(self, sender: Sender) -> None:
        with ScriptedServer(
            lambda peer: peer.answer_all(
                b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
            )
        ) as server:
            outcome = send(sender, post(server.url()))
        assert outcome.error_code is ErrorCode.PROTOCOL_ERROR

    def test_an_answer_in_single_bytes_is_an_answer(self, sender: Sender) -> None:
        async def slow(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.say(*[bytes([octet]) for octet in OK])

        with ScriptedServer(slow) as server:
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.body) == (200, b"ok")

    # --- how much is read -----------------------------------------------------------------------------------

    @pytest.mark.parametrize(("size", "is_truncated"), [(4_096, False), (4_097, True), (16_384, True)])
    def test_the_first_4_kib_are_kept(self, sender: Sender, size: int, is_truncated: bool) -> None:  # noqa: FBT001
        body = bytes(range(256)) * 65
        with ScriptedServer(lambda peer: peer.answer_all(answer(500, body=body[:size]))) as server:
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.body) == (500, body[:4_096])
        assert outcome.is_body_truncated is is_truncated

    def test_a_huge_body_is_not_read(self, sender: Sender) -> None:
        pushed = 0

        async def huge(peer: Peer) -> None:
            nonlocal pushed
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
            while pushed < 67_108_864:
                await peer.say(b"x" * 65_536)
                pushed += 65_536

        with ScriptedServer(huge) as server:
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.error_code, len(outcome.body)) == (200, ErrorCode.NONE, 4_096)
        assert outcome.is_body_truncated
        assert pushed < 16_000_000, "what lies in kernel buffers may be lost, not 64 MB"

    def test_a_dripping_body_is_left_after_a_second(self, sender: Sender) -> None:
        async def dripping(peer: Peer) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                await peer.say(b"d")
                await asyncio.sleep(0.05)

        with ScriptedServer(dripping) as server:
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.error_code, outcome.is_body_truncated) == (200, ErrorCode.NONE, True)
        assert outcome.body.startswith(b"dd")
        assert 0.9 < outcome.total_us / 1e6 < 1.0 + SWEEP_LATE_S + MACHINE_LATE_S

    def test_a_body_that_never_comes_does_not_undo_the_status(self, sender: Sender) -> None:
        async def stuck(peer: Peer) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
            await peer.until_closed()

        with ScriptedServer(stuck) as server:
            outcome = send(sender, post(server.url()))
            assert server.closed_by_client.wait(5)
        assert (outcome.status, outcome.body, outcome.is_body_truncated) == (200, b"", True)

    @pytest.mark.parametrize(
        "raw",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n",
        ],
    )
    def test_a_cut_body_keeps_its_status(self, sender: Sender, raw: bytes) -> None:
        async def cutting(peer: Peer) -> None:
            await peer.request()
            await peer.say(raw)

        with ScriptedServer(cutting) as server:
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.error_code, outcome.is_body_truncated) == (200, ErrorCode.NONE, True)
        assert b"abc".startswith(outcome.body)

    # --- deadlines ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("total_ms", [400, 1_100])
    def test_silence_ends_at_the_deadline(self, sender: Sender, total_ms: int) -> None:
        async def silent(peer: Peer) -> None:
            await peer.request()
            await peer.until_closed()

        with ScriptedServer(silent) as server:
            outcome = send(sender, post(server.url(), total_timeout_ms=total_ms))
            assert server.closed_by_client.wait(5)
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.TIMEOUT)
        assert total_ms / 1e3 <= outcome.total_us / 1e6 < total_ms / 1e3 + SWEEP_LATE_S + MACHINE_LATE_S

    def test_headers_that_never_end_end_at_the_deadline(self, sender: Sender) -> None:
        async def endless(peer: Peer) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\n")
            for number in range(1_000):
                await peer.say(f"X-{number}: y\r\n".encode())
                await asyncio.sleep(0.05)

        with ScriptedServer(endless) as server:
            outcome = send(sender, post(server.url(), total_timeout_ms=600))
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.TIMEOUT)

    def test_a_server_that_accepts_and_does_not_read_ends_at_the_deadline(self, sender: Sender) -> None:
        async def deaf(peer: Peer) -> None:
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(30)

        with ScriptedServer(deaf) as server:
            outcome = send(sender, post(server.url(), body=b"x" * 1_000_000, total_timeout_ms=600))
        assert outcome.error_code is ErrorCode.TIMEOUT

    def test_a_black_hole_ends_at_the_connect_deadline(self, sender: Sender) -> None:
        # A full accept queue drops SYNs, as a firewall does.
        with socket.socket() as hole, socket.socket() as first, socket.socket() as second:
            hole.bind(("127.0.0.1", 0))
            hole.listen(0)
            for filler in (first, second):
                filler.setblocking(False)  # noqa: FBT003
                filler.connect_ex(hole.getsockname())
            url = f"http://127.0.0.1:{hole.getsockname()[1]}/"
            outcome = send(sender, post(url, connect_timeout_ms=500))
        assert outcome.error_code is ErrorCode.CONNECT_TIMEOUT
        assert 0.5 <= outcome.total_us / 1e6 < 0.5 + SWEEP_LATE_S + MACHINE_LATE_S

    def test_a_tls_handshake_that_hangs_ends_at_the_connect_deadline(self, sender: Sender) -> None:
        async def hanging(peer: Peer) -> None:
            await peer.until_closed()

        with ScriptedServer(hanging) as server:
            url = server.url().replace("http:", "https:")
            outcome = send(sender, post(url, connect_timeout_ms=400))
            assert server.closed_by_client.wait(5)
        assert outcome.error_code is ErrorCode.CONNECT_TIMEOUT

    # --- answers that are none ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "raw",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"<html>hello</html>\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
            b"\x00" * 100,
        ],
    )
    def test_what_is_not_http_is_a_protocol_error(self, sender: Sender, raw: bytes) -> None:
        async def garbling(peer: Peer) -> None:
            await peer.request()
            await peer.say(raw)
            await peer.until_closed()

        with ScriptedServer(garbling) as server:
            outcome = send(sender, post(server.url()))
            assert server.closed_by_client.wait(5)
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.PROTOCOL_ERROR)
        assert outcome.error_detail

    @pytest.mark.parametrize(
        "head",
        [
            b"".join(b"X-%d: y\r\n" % number for number in range(5_000)),
            b"X-Long: " + b"y" * 200_000 + b"\r\n",
            b"X-" + b"y" * 200_000 + b": y\r\n",
        ],
    )
    def test_a_head_without_measure_is_refused(self, sender: Sender, head: bytes) -> None:
        async def boasting(peer: Peer) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\n", head, b"Content-Length: 0\r\n\r\n")
            await peer.until_closed()

        with ScriptedServer(boasting) as server:
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.RESPONSE_TOO_LARGE)

    def test_a_head_of_ordinary_size_is_read(self, sender: Sender) -> None:
        raw = answer(200, *[f"X-{number}: {'y' * 400}" for number in range(60)])
        with ScriptedServer(lambda peer: peer.answer_all(raw)) as server:
            assert send(sender, post(server.url())).status == 200

    def test_a_head_of_small_pieces_that_does_not_end_is_refused(self, sender: Sender) -> None:
        async def filling(peer: Peer) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\n")
            for number in range(100):
                await peer.say(f"X-{number}: {'y' * 7_000}\r\n".encode())
            await peer.until_closed()

        with ScriptedServer(filling) as server:
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.RESPONSE_TOO_LARGE)

    @pytest.mark.parametrize(
        "cut", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nServer: x"]
    )
    def test_a_close_before_the_end_of_the_head_is_no_answer(self, sender: Sender, cut: bytes) -> None:
        async def cutting(peer: Peer) -> None:
            await peer.request()
            await peer.say(cut)

        with ScriptedServer(cutting) as server:
            outcome = send(sender, post(server.url()))
            assert server.connection_count == 1, "only a reused connection may be tried again"
        assert outcome.status is None
        assert outcome.error_code in {ErrorCode.CONNECTION_RESET, ErrorCode.PROTOCOL_ERROR}
        assert outcome.requests_sent == 1

    def test_a_reset_is_a_reset(self, sender: Sender) -> None:
        async def resetting(peer: Peer) -> None:
            await peer.request()
            peer.reset()

        with ScriptedServer(resetting) as server:
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.CONNECTION_RESET)

    def test_nobody_listening_is_a_refusal(self, sender: Sender) -> None:
        outcome = send(sender, post(f"http://127.0.0.1:{free_port()}/"))
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.CONNECT_REFUSED)
        assert outcome.requests_sent == 1

    # --- connections that were idle -------------------------------------------------------------------------

    def test_an_answer_nobody_asked_for_never_becomes_an_answer(self, sender: Sender) -> None:
        is_said = threading.Event()

        async def poisoning(peer: Peer) -> None:
            await peer.request()
            if peer.number == 1:
                await peer.say(OK)
                await asyncio.sleep(0.05)
                await peer.say(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
                is_said.set()
                await peer.until_closed()
            await peer.say(OK)

        with ScriptedServer(poisoning) as server:
            assert send(sender, post(server.url(), 1)).status == 200
            assert is_said.wait(5)
            _tick.wait(0.1)  # the bytes must have reached the client; loopback has no event for that
            outcome = send(sender, post(server.url(), 2))
            assert (outcome.status, outcome.is_reused_connection) == (200, False)
            assert server.connection_count == 2

    def test_two_answers_in_one_segment_are_one_answer(self, sender: Sender) -> None:
        async def doubling(peer: Peer) -> None:
            await peer.request()
            await peer.say(OK + answer(500))
            await peer.request()

        with ScriptedServer(doubling) as server:
            outcomes = [send(sender, post(server.url(), number)) for number in range(3)]
        assert [outcome.status for outcome in outcomes] == [200, 200, 200]

    def test_a_close_right_behind_the_answer_does_no_harm(self, sender: Sender) -> None:
        async def leaving(peer: Peer) -> None:
            await peer.request()
            await peer.say(OK)

        with ScriptedServer(leaving) as server:
            outcomes = [send(sender, post(server.url(), number)) for number in range(50)]
        assert {outcome.status for outcome in outcomes} == {200}

    @pytest.mark.parametrize("is_reset", [False, True])
    def test_a_reused_connection_that_dies_is_sent_again_once_and_counted(
        self,
        sender: Sender,
        is_reset: bool,  # noqa: FBT001
    ) -> None:
        async def dying(peer: Peer) -> None:
            await peer.request()
            await peer.say(OK)
            await peer.request()
            if peer.number == 1:
                if is_reset:
                    peer.reset()
                return
            await peer.say(OK)

        with ScriptedServer(dying) as server:
            first = send(sender, post(server.url(), 1))
            second = send(sender, post(server.url(), 2))
            assert [seen.connection for seen in server.seen] == [1, 1, 2]
        assert (first.requests_sent, first.is_reused_connection) == (1, False)
        assert (second.status, second.requests_sent, second.is_reused_connection) == (200, 2, False)

    def test_sending_again_takes_a_new_connection_even_when_others_are_idle(self, sender: Sender) -> None:
        both_are_here = asyncio.Event()

        async def dying(peer: Peer) -> None:
            await peer.request()
            if len(peer.server.seen) == 2:
                both_are_here.set()
            await both_are_here.wait()  # two at once need two connections
            await peer.say(OK)
            await peer.request()

        with ScriptedServer(dying) as server:
            sender.submit([post(server.url(), number) for number in range(2)])
            collect(sender, 2)
            outcome = send(sender, post(server.url(), 2))
            assert [seen.connection for seen in server.seen][3:] == [3]
        assert (outcome.status, outcome.requests_sent, outcome.is_reused_connection) == (200, 2, False)

    def test_it_is_not_sent_again_a_second_time(self, sender: Sender) -> None:
        async def dying(peer: Peer) -> None:
            await peer.request()
            if peer.number == 1:
                await peer.say(OK)
                await peer.request()

        with ScriptedServer(dying) as server:
            send(sender, post(server.url(), 1))
            outcome = send(sender, post(server.url(), 2))
            assert server.connection_count == 2
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.CONNECTION_RESET)
        assert outcome.requests_sent == 2

    @pytest.mark.parametrize(
        "first_bytes", [b"H", b"HTTP/1.1 200 OK\r\nServer: x\r\n", b"HTTP/1.1 100 C\r\n\r\n"]
    )
    def test_it_is_not_sent_again_when_a_byte_had_come(self, sender: Sender, first_bytes: bytes) -> None:
        async def dying(peer: Peer) -> None:
            await peer.request()
            await peer.say(OK)
            await peer.request()
            await peer.say(first_bytes)

        with ScriptedServer(dying) as server:
            send(sender, post(server.url(), 1))
            outcome = send(sender, post(server.url(), 2))
            assert server.connection_count == 1
        assert outcome.status is None
        assert outcome.requests_sent == 1

    # --- TLS and names --------------------------------------------------------------------------------------

    def test_tls_with_a_trusted_name_works_and_is_reused(self) -> None:
        authority = trustme.CA()
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        tls = server_tls(authority, "hooks.example.com")
        with (
            ScriptedServer(Peer.answer_all, tls=tls, names={"hooks.example.com": "127.0.0.1"}) as server,
            self.opened(tls=trust, nameserver=server.nameserver) as sender,
        ):
            outcomes = [
                send(sender, post(server.url(host="hooks.example.com"), number)) for number in range(3)
            ]
            assert server.connection_count == 1
            assert server.seen[0].header("host") == f"hooks.example.com:{server.port}"
        assert {(outcome.status, outcome.peer) for outcome in outcomes} == {(200, f"127.0.0.1:{server.port}")}

    @pytest.mark.parametrize("names", [("other.example.com",), ("*.example.com.evil.net",)])
    def test_a_certificate_for_another_name_is_refused(self, names: tuple[str, ...]) -> None:
        authority = trustme.CA()
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        tls = server_tls(authority, *names)
        with (
            ScriptedServer(Peer.answer_all, tls=tls, names={"hooks.example.com": "127.0.0.1"}) as server,
            self.opened(tls=trust, nameserver=server.nameserver) as sender,
        ):
            outcome = send(sender, post(server.url(host="hooks.example.com")))
            assert server.seen == []
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.TLS_CERTIFICATE)
        assert "certificate" in outcome.error_detail.lower()

    def test_a_certificate_nobody_vouches_for_is_refused(self, sender: Sender) -> None:
        with ScriptedServer(Peer.answer_all, tls=server_tls(trustme.CA(), "127.0.0.1")) as server:
            outcome = send(sender, post(server.url()))
            assert server.seen == []
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.TLS_CERTIFICATE)

    def test_https_to_a_plain_port_is_a_tls_failure(self, sender: Sender) -> None:
        async def plain(peer: Peer) -> None:
            await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await peer.until_closed()

        with ScriptedServer(plain) as server:
            outcome = send(sender, post(server.url().replace("http:", "https:")))
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.TLS_FAILED)

    def test_a_server_that_wants_our_certificate_is_a_tls_failure(self) -> None:
        authority = trustme.CA()
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        tls = server_tls(authority, "127.0.0.1")
        tls.verify_mode = ssl.CERT_REQUIRED
        with ScriptedServer(Peer.answer_all, tls=tls) as server, self.opened(tls=trust) as sender:
            outcome = send(sender, post(server.url()))
        assert outcome.status is None
        assert outcome.error_code in {ErrorCode.TLS_FAILED, ErrorCode.CONNECTION_RESET}

    @pytest.mark.parametrize(
        ("answers", "code"),
        [
            ({}, ErrorCode.DNS_NOT_FOUND),
            ({"hooks.example.com": "broken"}, ErrorCode.DNS_FAILURE),
            ({"hooks.example.com": "silent"}, ErrorCode.DNS_TIMEOUT),
        ],
    )
    def test_names_that_lead_nowhere(self, answers: dict[str, str], code: ErrorCode) -> None:
        with (
            ScriptedServer(Peer.answer_all, names=answers) as server,
            self.opened(nameserver=server.nameserver, lookup_timeout_s=0.6) as sender,
        ):
            outcome = send(sender, post(server.url(host="hooks.example.com")))
        assert (outcome.status, outcome.error_code) == (None, code)
        assert "hooks.example.com" in outcome.error_detail

    def test_a_name_server_that_is_silent_ends_at_the_connect_deadline(self) -> None:
        with (
            ScriptedServer(Peer.answer_all, names={"hooks.example.com": "silent"}) as server,
            self.opened(nameserver=server.nameserver) as sender,
        ):
            outcome = send(sender, post(server.url(host="hooks.example.com"), connect_timeout_ms=400))
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.DNS_TIMEOUT)

    # --- redirects ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_one_redirect_is_followed_with_the_same_post(self, sender: Sender, status: int) -> None:
        async def moved(peer: Peer) -> None:
            while True:
                seen = await peer.request()
                await peer.say(answer(status, "Location: /new") if "/old" in seen.line else answer(202))

        with ScriptedServer(moved) as server:
            outcome = send(sender, post(server.url("/old")))
            old, new = server.seen
        assert (outcome.status, outcome.error_code, outcome.requests_sent) == (202, ErrorCode.NONE, 2)
        (hop,) = outcome.hops
        assert (hop.url, hop.status, hop.location) == (server.url("/old"), status, server.url("/new"))
        assert new.line == "POST /new HTTP/1.1"
        assert (new.body, new.headers) == (old.body, old.headers)

    def test_another_origin_does_not_get_the_endpoints_own_headers(self, sender: Sender) -> None:
        with ScriptedServer(Peer.answer_all) as there:
            location = f"Location: {there.url('/new')}"
            with ScriptedServer(lambda peer: peer.answer_all(answer(307, location))) as here:
                outcome = send(sender, post(here.url("/old")))
            (new,) = there.seen
        assert outcome.status == 200
        assert outcome.peer == f"127.0.0.1:{there.port}"
        assert new.body == BODY
        assert new.header("webhook-signature") == "v1,AAAA"
        assert new.header("x-own-header") is None
        assert new.header("x-second") is None

    def test_a_second_redirect_is_a_failure(self, sender: Sender) -> None:
        with ScriptedServer(lambda peer: peer.answer_all(answer(302, "Location: /again"))) as server:
            outcome = send(sender, post(server.url()))
            assert len(server.seen) == 2
        assert (outcome.status, outcome.error_code) == (302, ErrorCode.REDIRECT_REFUSED)
        assert (len(outcome.hops), outcome.requests_sent) == (1, 2)
        assert dict(outcome.headers)["location"] == "/again"

    @pytest.mark.parametrize(
        ("status", "location"),
        [
            (303, "/new"),
            (302, None),
            (302, "ftp://127.0.0.1/"),
            (302, "http://169.254.169.254/latest/meta-data"),
            (307, "http://user:pw@127.0.0.1/"),
        ],
    )
    def test_a_redirect_that_may_not_be_followed_is_a_failure(
        self, sender: Sender, status: int, location: str | None
    ) -> None:
        headers = [] if location is None else [f"Location: {location}"]
        with ScriptedServer(lambda peer: peer.answer_all(answer(status, *headers, body=b"why"))) as server:
            outcome = send(sender, post(server.url()))
            assert len(server.seen) == 1
        assert (outcome.status, outcome.error_code) == (status, ErrorCode.REDIRECT_REFUSED)
        assert (outcome.body, outcome.hops) == (b"why", ())
        assert outcome.error_detail

    def test_an_endpoint_may_refuse_redirects(self, sender: Sender) -> None:
        with ScriptedServer(lambda peer: peer.answer_all(answer(307, "Location: /new"))) as server:
            outcome = send(sender, post(server.url(), follow_redirect=False))
            assert len(server.seen) == 1
        assert (outcome.status, outcome.error_code) == (307, ErrorCode.REDIRECT_REFUSED)

    def test_https_is_never_left_for_http(self) -> None:
        authority = trustme.CA()
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        with ScriptedServer(Peer.answer_all) as plain:
            location = f"Location: {plain.url()}"
            with (
                ScriptedServer(
                    lambda peer: peer.answer_all(answer(308, location)),
                    tls=server_tls(authority, "127.0.0.1"),
                ) as server,
                self.opened(tls=trust) as sender,
            ):
                outcome = send(sender, post(server.url()))
            assert plain.connection_count == 0
        assert (outcome.status, outcome.error_code) == (308, ErrorCode.REDIRECT_REFUSED)

    def test_a_redirect_to_a_dead_place_is_what_that_place_says(self, sender: Sender) -> None:
        location = f"Location: http://127.0.0.1:{free_port()}/"
        with ScriptedServer(lambda peer: peer.answer_all(answer(307, location))) as server:
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.CONNECT_REFUSED)
        assert (len(outcome.hops), outcome.requests_sent) == (1, 2)

    def test_both_hops_share_one_deadline(self, sender: Sender) -> None:
        async def slow(peer: Peer) -> None:
            seen = await peer.request()
            if "/old" in seen.line:
                await asyncio.sleep(0.5)
                await peer.say(answer(307, "Location: /new"))
                await peer.request()
            await peer.until_closed()

        with ScriptedServer(slow) as server:
            outcome = send(sender, post(server.url("/old"), total_timeout_ms=800))
        assert outcome.error_code is ErrorCode.TIMEOUT
        assert outcome.total_us / 1e6 < 0.8 + SWEEP_LATE_S + MACHINE_LATE_S
        assert len(outcome.hops) == 1

    # --- the egress guard -----------------------------------------------------------------------------------

    def test_a_forbidden_address_gets_no_connection(self) -> None:
        names = {"hooks.example.com": "127.0.0.1", "meta.example.com": "169.254.169.254"}
        with ScriptedServer(Peer.answer_all, names=names) as canary:
            ports = frozenset({443, canary.port})
            urls = [
                f"https://127.0.0.1:{canary.port}/",
                f"https://hooks.example.com:{canary.port}/",
                f"https://meta.example.com:{canary.port}/",
                f"https://[::1]:{canary.port}/",
                f"https://[::ffff:127.0.0.1]:{canary.port}/",
                f"https://2130706433:{canary.port}/",
                f"http://127.0.0.1:{canary.port}/",
                "https://169.254.169.254/",
            ]
            with self.opened(allow_private=False, ports=ports, nameserver=canary.nameserver) as sender:
                sender.submit([post(url, number) for number, url in enumerate(urls)])
                outcomes = collect(sender, len(urls))
            assert canary.connection_count == 0
        assert {outcome.error_code for outcome in outcomes} == {ErrorCode.URL_NOT_ALLOWED}
        assert all(outcome.error_detail and outcome.peer == "" for outcome in outcomes)

    def test_one_forbidden_answer_forbids_the_name(self) -> None:
        names = {"hooks.example.com": "127.0.0.1 169.254.169.254"}
        with (
            ScriptedServer(Peer.answer_all, names=names) as server,
            self.opened(nameserver=server.nameserver) as sender,
        ):
            outcome = send(sender, post(server.url(host="hooks.example.com")))
            assert server.connection_count == 0
        assert outcome.error_code is ErrorCode.URL_NOT_ALLOWED
        assert "169.254" not in outcome.error_detail, "a customer must not read our network's names"

    def test_a_redirect_to_a_name_that_leads_inside_gets_no_connection(self) -> None:
        names = {"inside.example.com": "169.254.169.254"}
        location = "Location: https://inside.example.com/"
        with (
            ScriptedServer(lambda peer: peer.answer_all(answer(307, location)), names=names) as server,
            self.opened(nameserver=server.nameserver) as sender,
        ):
            outcome = send(sender, post(server.url()))
        assert (outcome.status, outcome.error_code) == (None, ErrorCode.URL_NOT_ALLOWED)

    def test_plain_http_and_odd_ports_are_for_private_addresses_only(self) -> None:
        # 192.88.98.1 is public; the guard must refuse before the dial, so nothing leaves this machine.
        names = {"public.example.com": "192.88.98.1"}
        with (
            ScriptedServer(Peer.answer_all, names=names) as server,
            self.opened(nameserver=server.nameserver) as sender,
        ):
            urls = ["http://public.example.com/", "https://public.example.com:8443/"]
            sender.submit([post(url, number) for number, url in enumerate(urls)])
            outcomes = collect(sender, 2)
        assert [outcome.error_code for outcome in outcomes] == [ErrorCode.URL_NOT_ALLOWED] * 2

    # --- blocks and the end ---------------------------------------------------------------------------------

    def test_a_block_of_many_comes_back_whole(self, sender: Sender) -> None:
        with ScriptedServer(Peer.answer_all) as server:
            for first in range(0, 300, 100):
                sender.submit([post(server.url(), first + number) for number in range(100)])
            assert sender.in_flight_count == 300
            outcomes = collect(sender, 300)
        assert sorted(outcome.token for outcome in outcomes) == [(7, number) for number in range(300)]
        assert {outcome.status for outcome in outcomes} == {200}
        assert sender.in_flight_count == 0

    def test_no_more_is_collected_than_was_asked_for(self, sender: Sender) -> None:
        with ScriptedServer(Peer.answer_all) as server:
            sender.submit([post(server.url(), number) for number in range(10)])
            taken: list[Outcome] = []
            while len(taken) < 10:
                piece = sender.collect(3)
                assert len(piece) <= 3
                taken += piece
                _tick.wait(0.002)

    def test_a_hanging_endpoint_holds_up_nobody(self, sender: Sender) -> None:
        async def mixed(peer: Peer) -> None:
            while True:
                seen = await peer.request()
                if "/hang" in seen.line:
                    await peer.until_closed()
                await peer.say(OK)

        with ScriptedServer(mixed) as server:
            sender.submit([post(server.url("/hang"), number, total_timeout_ms=1_500) for number in range(50)])
            sender.submit([post(server.url("/good"), 100 + number) for number in range(50)])
            first = collect(sender, 50)
            assert {outcome.status for outcome in first} == {200}
            rest = collect(sender, 50)
        assert {outcome.error_code for outcome in rest} == {ErrorCode.TIMEOUT}

    def test_close_waits_for_answers_that_come_in_time(self) -> None:
        async def slow(peer: Peer) -> None:
            await peer.request()
            await asyncio.sleep(0.4)
            await peer.say(OK)

        with ScriptedServer(slow) as server:
            sender = self.open_sender()
            sender.submit([post(server.url(), number) for number in range(5)])
            sender.close(5.0)
        assert [outcome.status for outcome in sender.collect()] == [200] * 5

    def test_close_ends_the_rest_as_our_shutdown(self) -> None:
        async def silent(peer: Peer) -> None:
            await peer.request()
            await peer.until_closed()

        with ScriptedServer(silent) as server:
            sender = self.open_sender()
            sender.submit([post(server.url(), number) for number in range(5)])
            began_at_s = time.monotonic()
            sender.close(0.3)
            assert time.monotonic() - began_at_s < 0.3 + MACHINE_LATE_S
            outcomes = sender.collect()
            assert server.closed_by_client.wait(5)
        assert [outcome.error_code for outcome in outcomes] == [ErrorCode.OUR_SHUTDOWN] * 5
        assert sender.in_flight_count == 0

    def test_what_is_submitted_after_close_comes_back_unsent(self) -> None:
        with ScriptedServer(Peer.answer_all) as server:
            sender = self.open_sender()
            sender.close(0.0)
            sender.close(0.0)
            sender.submit([post(server.url())])
            (outcome,) = sender.collect()
            assert server.connection_count == 0
        assert (outcome.error_code, outcome.requests_sent) == (ErrorCode.OUR_SHUTDOWN, 0)
