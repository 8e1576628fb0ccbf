"""`listen`, from the outside: it verifies, prints, answers as it is told, and stops when asked."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection

from deploy.checks import ROOT
from operators.signing import decode_secret, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"type":"order.created","data":{"order":7}}'
COMMAND = (sys.executable, "-m", "deploy.cli", "listen")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


@contextmanager
def listening(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs `listen` on a free port; yields it with its address."""
    command = [*COMMAND, "--port", "0", *arguments]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://([\d.:]+)/", process.stdout.readline())
            assert found is not None
            yield process, found[1]
        finally:
            process.kill()


def post(address: str, body: bytes, secret: str = SECRET) -> int:
    """Posts a request, signed as ours are; returns the status."""
    now_s = int(time.time())
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(now_s),
        "webhook-signature": sign("evt_1", now_s, BODY, [decode_secret(secret)]),
    }
    connection = HTTPConnection(address, timeout=10)
    try:
        connection.request("POST", "/hooks?a=b", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_it_verifies_and_prints_what_arrives_and_answers_as_it_is_told() -> None:
    with listening("--secret", SECRET, "--fail-first", "1", "--status", "202") as (process, address):
        assert [post(address, BODY) for _ in range(2)] == [500, 202]
        assert post(address, BODY.replace(b"7", b"8")) == 202
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=10)

    assert process.returncode == 0
    assert printed.count("signature ok") == 2
    assert printed.count("SIGNATURE DOES NOT MATCH") == 1
    assert "#1 /hooks?a=b" in printed
    assert '"order": 7' in printed
    assert printed.endswith("3 arrived.\n")


def test_without_a_secret_it_says_that_it_does_not_check() -> None:
    with listening() as (process, address):
        assert post(address, BODY) == 200
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=10)

    assert process.returncode == 0
    assert "signature not checked" in printed


def test_a_wrong_secret_and_a_taken_port_are_refused_with_a_sentence() -> None:
    wrong = subprocess.run(
        [*COMMAND, "--secret", "whsec_short"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        second = subprocess.run(
            [*COMMAND, "--port", port], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )

    assert (wrong.returncode, second.returncode) == (2, 3)
    assert "short" not in wrong.stderr
    assert f"port {port} cannot be taken" in second.stderr
