"""The receiver as a witness: what our sender sends is what it verifies and records; and the cheap sink."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from rich.console import Console
from standardwebhooks.webhooks import Webhook

from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from dataflows.connectors.sender.port import Sender
from deploy.receiver.arrival import UNCHECKED, Arrival, decode_line
from deploy.receiver.arrival_printer import print_arrival
from deploy.receiver.behaviour import Behaviour, decide
from deploy.receiver.receiver import ReceiverThread
from operators.request_head import make_head, prepare
from operators.signing import Verdict, encode_secret
from schemas.endpoint import Endpoint
from schemas.outcome import ErrorCode, PreparedRequest
from tests.conformance.sender_contract import collect, send

SECRET = b"s" * 32
OTHER = b"o" * 32
ROOT = Path(__file__).parents[2]


def webhook(
    url: str, number: int = 0, *, secret: bytes = SECRET, body: bytes = b'{"a": 1}'
) -> PreparedRequest:
    endpoint = Endpoint(
        id="ep_1",
        tenant_id="tnt_1",
        url=url,
        event_types=("*",),
        secrets=(),
        created_at_ms=0,
        updated_at_ms=0,
        timeout_ms=700,
    )
    head = make_head(endpoint, "Hooktide/test", 700)
    return prepare(head, (0, number), f"evt_{number}", body, [secret], time.time_ns() // 1_000_000)


@pytest.fixture
def sender() -> Iterator[Sender]:
    sender = open_aiohttp_sender(EgressPolicy(allow_private=True))
    yield sender
    sender.close(0.0)


def test_what_was_sent_is_verified_recorded_and_answered(sender: Sender, tmp_path: Path) -> None:
    record = tmp_path / "arrivals.jsonl"
    with ReceiverThread(secrets=[OTHER, SECRET], record_to=record) as receiver:
        receiver.behave(Behaviour(status=202, body=b"thanks"))
        outcome = send(sender, webhook(f"{receiver.url}/in?x=1", 5))
        (arrival,) = receiver.wait_for(1, 5)
    assert (outcome.status, outcome.body) == (202, b"thanks")
    assert (arrival.path, arrival.body, arrival.verdict, arrival.status) == (
        "/in?x=1",
        b'{"a": 1}',
        "ok",
        202,
    )
    assert arrival.webhook_id == "evt_5"
    Webhook(encode_secret(SECRET)).verify(arrival.body, dict(arrival.headers))
    (line,) = [decode_line(raw) for raw in record.read_bytes().splitlines()]
    assert line.body_sha256 == sha256(arrival.body).hexdigest()
    assert (line.path, line.headers, line.verdict) == (arrival.path, arrival.headers, arrival.verdict)


def test_verdicts_follow_the_secret_of_the_path(sender: Sender) -> None:
    with ReceiverThread() as receiver:
        receiver.trust([SECRET], "/right")
        receiver.trust([OTHER], "/wrong")
        for number, path in enumerate(["/right", "/wrong", "/nobody"]):
            send(sender, webhook(receiver.url + path, number))
        verdicts = {arrival.path: arrival.verdict for arrival in receiver.arrivals}
    assert verdicts == {"/right": Verdict.OK, "/wrong": Verdict.BAD_SIGNATURE, "/nobody": UNCHECKED}


def test_the_first_three_of_each_event_fail_with_retry_after(sender: Sender) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(fail_first=3, fail_status=503, retry_after="7"))
        outcomes = [send(sender, webhook(receiver.url, 1)) for _ in range(5)]
        assert [outcome.status for outcome in outcomes] == [503, 503, 503, 200, 200]
        assert dict(outcomes[0].headers)["retry-after"] == "7"
        assert "retry-after" not in dict(outcomes[3].headers)
        assert send(sender, webhook(receiver.url, 2)).status == 503
        assert [arrival.number for arrival in receiver.arrivals] == [1, 2, 3, 4, 5, 6]


def test_one_path_may_hang_while_another_answers_and_stop_is_not_held_up(sender: Sender) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(hang=True), "/hang")
        receiver.behave(Behaviour(delay_s=0.1), "/slow")
        paths = ["/hang", "/slow", "/good"]
        sender.submit([webhook(receiver.url + path, number) for number, path in enumerate(paths)])
        outcomes = {outcome.token[1]: outcome for outcome in collect(sender, 3)}
        arrivals = {arrival.path: arrival for arrival in receiver.arrivals}
    assert outcomes[0].error_code is ErrorCode.TIMEOUT
    assert arrivals["/hang"].status is None
    assert (outcomes[1].status, outcomes[2].status) == (200, 200)
    assert outcomes[1].total_us >= 100_000


def test_a_taken_port_is_an_error_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="address already in use"):
            ReceiverThread().start(taken.getsockname()[1])


def test_a_fail_rate_is_a_share_and_the_same_every_time() -> None:
    behaviour = Behaviour(fail_rate=0.3)
    first = [decide(behaviour, f"evt_{number}", 1).status for number in range(5_000)]
    assert first == [decide(behaviour, f"evt_{number}", 1).status for number in range(5_000)]
    assert 0.27 < first.count(500) / len(first) < 0.33
    assert all(decide(Behaviour(fail_rate=1.0), "evt_1", number).status == 500 for number in range(100))


@pytest.mark.parametrize(
    ("verdict", "says"),
    [(Verdict.OK, "signature ok"), (Verdict.BAD_SIGNATURE, "DOES NOT MATCH"), (UNCHECKED, "not checked")],
)
def test_a_terminal_gets_words_and_no_foreign_control_characters(verdict: str, says: str) -> None:
    arrival = Arrival(
        received_at_ns=1_750_000_000_000_000_000,
        path="/in[red]",
        headers=(("webhook-id", "evt_1\x1b[2J"),),
        body=b'{"text": "[bold]not markup[/bold]"}\x07',
        verdict=verdict,
        status=200,
        number=3,
    )
    screen = io.StringIO()
    print_arrival(arrival, Console(file=screen, force_terminal=False, width=200))
    shown = screen.getvalue()
    assert says in shown
    assert "[bold]not markup[/bold]" in shown
    assert "/in[red]" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_the_sink_counts_split_and_pipelined_requests(tmp_path: Path) -> None:
    record = tmp_path / "seen"
    sink = subprocess.Popen(
        [sys.executable, "-m", "deploy.receiver.sink", "--record", str(record)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    try:
        assert sink.stdout is not None
        port = int(sink.stdout.readline())
        one = b"POST /a HTTP/1.1\r\nHost: x\r\nWebhook-Id: evt_%d\r\nContent-Length: 5\r\n\r\nhello"
        raw = b"".join(one % number for number in range(50))
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            for at in range(0, len(raw), 37):
                client.sendall(raw[at : at + 37])
            received = b""
            while received.count(b"HTTP/1.1 200 OK") < 50:
                received += client.recv(65_536)
        sink.send_signal(signal.SIGTERM)
        said, _ = sink.communicate(timeout=10)
    finally:
        with suppress(ProcessLookupError):
            sink.kill()
    assert said == "50 requests on 1 connections\n"
    assert record.read_bytes() == b"".join(b"evt_%d /a\n" % number for number in range(50))
