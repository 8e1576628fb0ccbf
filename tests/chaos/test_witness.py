"""The witness as a process: what it receives is written down before it answers, and judged."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path

import msgspec
import pytest

from deploy.chaos.child import Child
from deploy.chaos.shared_page import SharedNumbers
from deploy.chaos.witness_counts import SharedCounts
from deploy.chaos.witness_lines import read_arrivals
from deploy.chaos.witness_script import PathScript, WitnessScript
from deploy.checker.history import Arrival, End, Source
from operators.signing import Verdict, decode_secret, encode_secret, sign

SECRET = encode_secret(b"s" * 32)
WAIT_S = 20.0


class Running:
    """A witness, and how to ask it."""

    def __init__(self, directory: Path) -> None:
        self.out = directory / "witness.log"
        self.counts = SharedCounts(directory / "counts")
        script = WitnessScript(
            1,
            {
                "/ok": PathScript((SECRET,)),
                "/slow": PathScript((SECRET,), delay_ms=200),
                "/fails": PathScript((SECRET,), fail_share=1.0, fail_status=503, retry_after_s=7),
                "/resets": PathScript((SECRET,), reset_share=1.0),
                "/hangs": PathScript((SECRET,), hang_share=1.0),
            },
        )
        file = directory / "script"
        file.write_bytes(msgspec.json.encode(script))
        arguments = ["--script", "script", "--out", "witness.log", "--counts", "counts"]
        self.child = Child(["-m", "deploy.chaos.witness", *arguments], directory, directory / "stderr")
        self.port = int(self.child.read_line(WAIT_S))

    def post(self, path: str, *, is_signed: bool = True, body: bytes = b"{}") -> int:
        """Posts once on a connection of its own; returns the status."""
        now_s = int(time.time())
        secret = decode_secret(SECRET) if is_signed else b"x" * 32
        headers = {
            "webhook-id": "evt_1",
            "webhook-timestamp": str(now_s),
            "webhook-signature": sign("evt_1", now_s, body, [secret]),
        }
        connection = HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request("POST", path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def arrivals(self) -> list[Arrival]:
        """Ends the witness; returns what it wrote."""
        self.child.send(signal.SIGTERM)
        assert self.child.wait(WAIT_S) == 0
        *arrivals, end = read_arrivals(self.out)
        assert isinstance(end, End)
        assert (end.source, end.record_count) == (Source.WITNESS, len(arrivals))
        return [one for one in arrivals if isinstance(one, Arrival)]


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    if running.child.is_alive:
        running.child.kill()


def test_it_writes_down_what_it_received_and_what_it_answered(witness: Running) -> None:
    assert [witness.post(path) for path in ("/ok", "/fails", "/unknown")] == [200, 503, 404]
    assert witness.post("/ok", is_signed=False) == 200

    ok, failed, unknown, forged = witness.arrivals()
    assert (ok.verdict, ok.status, ok.is_answer_written) == (Verdict.OK, 200, True)
    assert ok.answered_at_ns is not None
    assert ok.received_at_ns <= ok.answered_at_ns
    assert (failed.status, failed.retry_after_ms) == (503, 7_000)
    assert (unknown.status, unknown.verdict) == (404, Verdict.BAD_SIGNATURE)
    assert forged.verdict == Verdict.BAD_SIGNATURE
    assert witness.counts.read()[:3] == (4, 0, 1)


def test_an_answer_waits_for_its_delay(witness: Running) -> None:
    assert witness.post("/slow") == 200

    (slow,) = witness.arrivals()
    assert slow.answered_at_ns is not None
    assert slow.answered_at_ns - slow.received_at_ns >= 199_000_000


def test_a_reset_is_an_arrival_without_an_answer(witness: Running) -> None:
    with pytest.raises((RemoteDisconnected, ConnectionResetError)):
        witness.post("/resets")

    (one,) = witness.arrivals()
    assert (one.status, one.answered_at_ns, one.is_answer_written) == (None, None, False)


async def test_what_hangs_is_in_flight_until_the_sender_goes_away(witness: Running) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", witness.port)
    writer.write(b"POST /hangs HTTP/1.1\r\nwebhook-id: evt_2\r\ncontent-length: 2\r\n\r\n{}")
    await _until(witness, (1, 1))
    writer.close()
    await _until(witness, (1, 0))

    (one,) = witness.arrivals()
    assert (one.webhook_id, one.status, one.verdict) == ("evt_2", None, Verdict.MISSING_HEADER)


async def test_a_request_in_pieces_and_two_in_one_are_three_requests(witness: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", witness.port)
    request = b"POST /ok HTTP/1.1\r\nwebhook-id: evt_3\r\ncontent-length: 2\r\n\r\n{}"
    writer.write(request[:20])
    await writer.drain()
    writer.write(request[20:] + request + request)
    for _ in range(3):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()

    assert len(witness.arrivals()) == 3


def test_a_killed_witness_has_no_end(witness: Running) -> None:
    assert witness.post("/slow") == 200
    witness.child.kill()

    assert not [one for one in read_arrivals(witness.out) if isinstance(one, End)]


def test_a_new_script_is_in_force_when_it_is_answered(witness: Running) -> None:
    connection = HTTPConnection("127.0.0.1", witness.port, timeout=WAIT_S)
    script = {"seed": 1, "paths": {"/ok": {"secrets": [SECRET], "fail_share": 1.0, "fail_status": 500}}}
    connection.request("PUT", "/-/script", json.dumps(script))
    assert connection.getresponse().status == 204
    connection.close()

    assert [witness.post("/ok"), witness.post("/slow")] == [500, 404]


def test_shared_numbers_are_seen_by_another_mapping_and_stay(tmp_path: Path) -> None:
    written, read = SharedNumbers(tmp_path / "page", 3), SharedNumbers(tmp_path / "page", 3)
    written.write((1, 2, (1 << 64) - 1))

    assert read.read() == [1, 2, (1 << 64) - 1]
    assert SharedNumbers(tmp_path / "page", 3).read() == [1, 2, (1 << 64) - 1]


async def _until(witness: Running, wanted: tuple[int, int]) -> None:
    until_s = time.monotonic() + WAIT_S
    while witness.counts.read()[:2] != wanted:
        assert time.monotonic() < until_s, witness.counts.read()
        await asyncio.sleep(0.005)
