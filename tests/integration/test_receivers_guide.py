"""The receivers' guide, run: both its receivers as they stand on the page, fed by a real Hooktide."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest

from deploy.checks import ROOT
from deploy.receiver.receiver import ReceiverThread
from operators.signing import decode_secret, sign
from tests.integration.hooktide_process import HooktideProcess

GUIDE = (ROOT / "docs" / "receivers.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PATIENCE_S = 20.0
DAY_S = 86_400


def block(language: str) -> str:
    """Returns the one block in this language."""
    (text,) = [text for named, text in BLOCKS if named == language]
    return str(text)


class Program:
    """A receiver of the guide in a process of its own, and the lines that it prints."""

    def __init__(self, command: list[str], directory: Path) -> None:
        environment = {**os.environ, "WEBHOOK_SECRET": SECRET, "PORT": "0"}
        self.process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True
        )
        self._lines: Queue[str] = Queue()
        Thread(target=self._read, daemon=True).start()
        self.port = int(self.line().removeprefix("listening on port "))

    def line(self) -> str:
        """Returns the next line that it prints."""
        return self._lines.get(timeout=PATIENCE_S)

    def post(
        self,
        body: bytes,
        webhook_id: str,
        at_s: int,
        more: dict[str, str] | None = None,
        secret: str = SECRET,
    ) -> int:
        """Posts a request, signed as ours are, with more headers; returns the status."""
        signature = sign(webhook_id, at_s, body, [decode_secret(secret)])
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            headers = {
                "webhook-id": webhook_id,
                "webhook-timestamp": str(at_s),
                "webhook-signature": signature,
                **(more or {}),
            }
            connection.request("POST", "/hooks", body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))


@contextmanager
def running(language: str, directory: Path, node_project: Path | None = None) -> Iterator[Program]:
    """Runs the guide's receiver in this language."""
    if language == "python":
        (directory / "receiver.py").write_text(block(language))
        command = [sys.executable, "receiver.py"]
    else:
        assert node_project is not None
        (directory / "receiver.mjs").write_text(block(language))
        (directory / "node_modules").symlink_to(node_project / "node_modules")
        command = [shutil.which("node") or "node", "receiver.mjs"]
    program = Program(command, directory)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()
        if program.process.stdout is not None:
            program.process.stdout.close()


def verifies_deduplicates_and_answers(program: Program, hooktide: HooktideProcess) -> None:
    """Feeds it what a receiver meets: the first request, events, copies, forgeries, old ones, too much."""
    url = f"http://127.0.0.1:{program.port}/hooks"
    made = hooktide.create_endpoint(url, ["order.*"], secret=SECRET, verification="sync")
    assert made["verification"]["state"] == "verified"
    assert program.line().startswith("working on endpoint.verification evt_")

    event_id = hooktide.publish({"order": 1})["id"]
    assert program.line() == f"working on order.created {event_id}"
    hooktide.get_until(
        f"events/{event_id}/deliveries",
        lambda page: [(d["state"], d["last_status"]) for d in page["data"]] == [("delivered", 204)],
    )

    now_s = int(time.time())
    body = json.dumps({"id": event_id, "type": "order.created", "data": {"order": 1}}).encode()
    other = json.dumps({"id": "evt_other", "type": "order.created", "data": {}}).encode()
    wrong = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    assert program.post(body, event_id, now_s) == 204  # a copy
    assert program.post(other, "evt_other", now_s, secret=wrong) == 400
    assert program.post(other, "evt_other", now_s - DAY_S) == 400
    last_id = hooktide.publish({"order": 2})["id"]
    assert program.line() == f"working on order.created {last_id}"  # and of the four before nothing


@pytest.mark.timeout(120)
def test_the_receiver_in_python(hooktide: HooktideProcess, tmp_path: Path) -> None:
    hooktide.start()
    with running("python", tmp_path) as program:
        verifies_deduplicates_and_answers(program, hooktide)
        assert program.post(b"", "evt_1", 0, {"content-length": "1000001"}) == 413
    assert hooktide.terminate() == 0


@pytest.mark.real_node
@pytest.mark.timeout(120)
def test_the_receiver_in_javascript(hooktide: HooktideProcess, tmp_path: Path, node_project: Path) -> None:
    hooktide.start()
    with running("javascript", tmp_path, node_project) as program:
        verifies_deduplicates_and_answers(program, hooktide)
        assert program.post(b" " * 1_000_001, "evt_1", 0) == 413
    assert hooktide.terminate() == 0


@pytest.mark.timeout(120)
def test_the_request_looks_as_the_guide_shows_it(hooktide: HooktideProcess) -> None:
    head, shown_body = block("http").split("\n\n")
    request_line, *fields = head.splitlines()
    shown = dict(field.split(": ", 1) for field in fields)

    with ReceiverThread() as receiver:
        hooktide.start()
        hooktide.create_endpoint(f"{receiver.url}/hooks", ["order.*"])
        hooktide.publish({"order": 1})
        (arrival,) = receiver.wait_for(1, PATIENCE_S)
        assert hooktide.terminate() == 0

    sent = {name.lower(): value for name, value in dict(arrival.headers).items()}
    assert request_line == f"POST {arrival.path} HTTP/1.1"
    assert sent["content-type"] == shown["content-type"]
    assert {name: len(sent[name]) for name in shown} == {name: len(shown[name]) for name in shown}
    assert list(json.loads(arrival.body)) == list(json.loads(shown_body))


def test_the_command_for_a_secret_makes_one_that_the_api_takes() -> None:
    command = block("sh").replace("python3", f'"{sys.executable}"', 1)

    made = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout.strip()

    assert len(decode_secret(made)) == 32


def test_every_block_of_the_guide_is_run_here() -> None:
    assert sorted(language for language, _ in BLOCKS) == ["http", "javascript", "python", "sh"]
    assert GUIDE.count("\n```") == 2 * len(BLOCKS)


def test_what_the_guide_installs_is_what_runs_here() -> None:
    package = json.loads((ROOT / "tests" / "integration" / "node" / "package.json").read_text())

    installed = re.findall(r"`(?:pip|npm) install ([\w-]+)`", GUIDE)

    assert installed == ["standardwebhooks", "standardwebhooks"]
    assert list(package["dependencies"]) == ["standardwebhooks"]
    assert '"standardwebhooks' in (ROOT / "pyproject.toml").read_text()
