"""The commands against a real process: what they print, what they exit with, what they leave behind."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from deploy.checks import ROOT
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from operators.signing import decode_secret, sign
from tests.integration.hooktide_process import HooktideProcess

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("HOOKTIDE")}
WAIT_S = 20.0


class Cli:
    """Commands of somebody who works in the directory of a running Hooktide."""

    def __init__(self, hooktide: HooktideProcess) -> None:
        self.directory = hooktide.directory
        self.hooktide = hooktide
        self.environment = {
            **CLEAN,
            "PYTHONPATH": str(ROOT),
            "PYTHONSAFEPATH": "1",
            "HOOKTIDE__DATA": str(hooktide.data),
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "deploy.cli", *arguments]

    def run(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )

    def json(self, *arguments: str) -> Any:  # noqa: ANN401 - JSON is what it is
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def until(self, is_there: Callable[[Any], object], *arguments: str) -> Any:  # noqa: ANN401
        until_s = time.monotonic() + WAIT_S
        while True:
            found = self.json(*arguments)
            if is_there(found):
                return found
            assert time.monotonic() < until_s, f"{arguments}: {found}\n{self.hooktide.log}"


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    process = HooktideProcess(tmp_path_factory.mktemp("cli"))
    try:
        yield Cli(process.start())
    finally:
        process.close()


@pytest.fixture
def receiver() -> Iterator[ReceiverThread]:
    with ReceiverThread() as started:
        yield started


def create(cli: Cli, url: str, tenant: str, *arguments: str) -> dict[str, Any]:
    created: dict[str, Any] = cli.json("endpoints", "create", url, "--tenant", tenant, *arguments)
    return created


def test_the_life_of_an_endpoint(cli: Cli, receiver: ReceiverThread) -> None:
    url = f"{receiver.url}/life"
    made = create(cli, url, "life", "--type", "order.*", "--type", "ping", "--description", "mine")
    name = made["id"]

    assert made["secret"].startswith("whsec_")
    assert [one.status for one in receiver.arrivals] == [200], "the verification"
    got = cli.json("endpoints", "get", name)
    assert (got["url"], got["event_types"], got["status"]) == (url, ["order.*", "ping"], "active")
    assert "secret" not in got
    listed = cli.run("endpoints", "list", "--tenant", "life")
    assert listed.stdout.splitlines()[1].split() == [name, "life", "active", "order.*,", "ping", url]
    assert cli.json("endpoints", "update", name, "--description", "new")["description"] == "new"
    assert cli.json("endpoints", "update", name, "--set", '{"timeout_ms": 700}')["timeout_ms"] == 700
    for action, status in (
        ("pause", "paused"),
        ("resume", "active"),
        ("disable", "disabled"),
        ("enable", "active"),
    ):
        assert cli.json("endpoints", action, name)["status"] == status
    assert cli.json("endpoints", "verify", name)["verification"]["state"] == "verified"
    assert cli.json("endpoints", "rotate", name, "--overlap", "60")["secret"] != made["secret"]
    stale = cli.run("endpoints", "update", name, "--description", "x", "--if-match", '"1-active"')
    assert stale.returncode == 1
    refused = cli.run("endpoints", "delete", name)
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert cli.json("endpoints", "delete", name, "--yes") == {"id": name, "deleted": True}
    gone = cli.run("endpoints", "get", name)
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    assert gone.stderr.startswith("hooktide: There is no such endpoint")
    assert cli.json("endpoints", "list", "--tenant", "life") == []


def test_trigger_delivers_and_deliveries_tell(cli: Cli, receiver: ReceiverThread) -> None:
    made = create(cli, f"{receiver.url}/trigger", "trigger")
    sent = cli.run("trigger", "order.created", "--data", '{"n": 1.10}', "--tenant", "trigger", "-k", "k1")
    again = cli.json("trigger", "order.created", "--data", '{"n": 1.10}', "--tenant", "trigger", "-k", "k1")
    piped = cli.run(
        "trigger", "a.b", "--data", "-", "--endpoint", made["id"], "--json", text='["from stdin"]'
    )
    sample = cli.json("trigger", "--sample", "issues.opened", "--tenant", "trigger")
    arrived = receiver.wait_for(4, WAIT_S)

    assert again["id"] in sent.stdout
    assert json.loads(piped.stdout)["type"] == "a.b"
    assert sample["type"] == "github.issues.opened"
    assert b'"n": 1.10' in b"".join(one.body for one in arrived)
    found = cli.until(lambda page: page and page[0]["state"] == "delivered", "deliveries", again["id"])
    one = cli.until(lambda delivery: delivery["attempts"], "deliveries", "get", found[0]["id"])
    assert [attempt["status"] for attempt in one["attempts"]] == [200]
    shown = cli.run("deliveries", "get", found[0]["id"]).stdout
    assert re.search(r"^ *1 .* 200 .* ms", shown, re.MULTILINE)
    nobody = cli.run("trigger", "order.created", "--tenant", "nobody")
    assert (nobody.returncode, "No endpoint of tenant nobody" in nobody.stdout) == (0, True)


def test_a_dead_letter_is_sent_again_and_a_waiting_one_is_cancelled(
    cli: Cli, receiver: ReceiverThread
) -> None:
    retry = '{"retry": {"delays_seconds": [0.1]}, "verification": "skip"}'
    create(cli, f"{receiver.url}/dead", "dead", "--set", retry)
    receiver.behave(Behaviour(status=500), "/dead")
    event = cli.json("trigger", "order.created", "--tenant", "dead")["id"]
    dead = cli.until(lambda page: page and page[0]["state"] == "dead_lettered", "deliveries", event)[0]
    receiver.behave(Behaviour(), "/dead")
    again = cli.json("resend", dead["id"], "-k", "once")
    assert cli.json("resend", dead["id"], "-k", "once") == again
    cli.until(lambda one: one["state"] == "delivered", "deliveries", "get", again["id"])

    arrived = [one for one in receiver.arrivals if one.path == "/dead"]
    assert [one.status for one in arrived] == [500, 500, 200]
    assert len({(one.webhook_id, one.body) for one in arrived}) == 1

    receiver.behave(Behaviour(status=500), "/dead")
    create(cli, f"{receiver.url}/wait", "wait", "--set", '{"verification": "skip"}')
    receiver.behave(Behaviour(status=500), "/wait")
    event = cli.json("trigger", "order.created", "--tenant", "wait")["id"]
    waiting = cli.until(lambda page: page and page[0]["state"] == "retrying", "deliveries", event)[0]
    assert cli.run("cancel", waiting["id"]).returncode == 0
    cli.until(lambda one: one["state"] == "cancelled", "deliveries", "get", waiting["id"])
    assert cli.run("cancel", waiting["id"]).returncode == 1
    listed = cli.json("deliveries", "list", "--state", "cancelled", "--tenant", "wait")
    assert [one["id"] for one in listed] == [waiting["id"]]


def test_tail_follows_what_happens(cli: Cli, receiver: ReceiverThread) -> None:
    made = create(cli, f"{receiver.url}/tail", "tail")
    arguments = ("tail", "--endpoint", made["id"], "--state", "delivered", "--count", "2", "--json")
    with subprocess.Popen(
        cli.command(*arguments), cwd=cli.directory, env=cli.environment, stdout=subprocess.PIPE, text=True
    ) as tail:
        try:
            events = {cli.json("trigger", "order.created", "--tenant", "tail")["id"] for _ in range(2)}
            printed, _ = tail.communicate(timeout=WAIT_S)
        finally:
            tail.kill()

    assert tail.returncode == 0
    assert {json.loads(line)["event_id"] for line in printed.splitlines()} == events
    past = cli.run("tail", "--endpoint", made["id"], "--count", "1", "--tenant", "tail")
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d  delivered .* order\.created  dlv_\S+  ep_\S+  1 attempt, 200.*\n", past.stdout
    )


def test_a_wrong_key_is_a_sentence(cli: Cli) -> None:
    done = cli.run("endpoints", "list", "--key", "hk_wrong")

    assert done.returncode == 1
    assert "does not take this key" in done.stderr
    assert "hk_wrong" not in done.stderr


def test_several_tenants_want_a_name(cli: Cli, receiver: ReceiverThread) -> None:
    for tenant in ("one", "two"):
        create(cli, f"{receiver.url}/{tenant}", tenant)
    done = cli.run("trigger", "order.created")

    assert done.returncode == 2
    assert "--tenant" in done.stderr


def test_doctor_knows_its_own_kind(cli: Cli) -> None:
    cli.environment["HOOKTIDE__API__PORT"] = cli.hooktide.url.rpartition(":")[2]
    findings = {one["name"]: one for one in json.loads(cli.run("doctor", "--json").stdout)["findings"]}
    del cli.environment["HOOKTIDE__API__PORT"]

    assert findings["port"]["level"] == "warning"
    assert "a Hooktide answers" in findings["port"]["what"]


def post(address: str, path: str, body: bytes) -> tuple[int, bytes]:
    secret = decode_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    now_s = int(time.time())
    connection = HTTPConnection(address, timeout=10)
    try:
        headers = {
            "webhook-id": "evt_1",
            "webhook-timestamp": str(now_s),
            "webhook-signature": sign("evt_1", now_s, body, [secret]),
            "X-Own": "a b",
        }
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_listen_forwards_and_hands_the_answer_back(receiver: ReceiverThread, tmp_path: Path) -> None:
    receiver.behave(Behaviour(status=418, body=b"short and stout"), "/app")
    command = [sys.executable, "-m", "deploy.cli", "listen", "--port", "0", "--json"]
    environment = {**CLEAN, "PYTHONPATH": str(ROOT)}
    bodies = [b'{"a": 1}', b"\xff\x00 no text"]
    for target, path, status in (("/app", "/x?y=1", 418), ("", "/kept?y=1", 200)):
        with subprocess.Popen(
            [*command, "--forward-to", receiver.url + target],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as listen:
            try:
                assert listen.stderr is not None
                found = re.search(r"http://([\d.:]+)/", listen.stderr.readline())
                assert found is not None
                answers = [post(found[1], path, body) for body in bodies]
                listen.terminate()
                printed, _ = listen.communicate(timeout=10)
            finally:
                listen.kill()
        lines = [json.loads(line) for line in printed.splitlines()]

        assert answers == [(status, b"short and stout" if status == 418 else b"")] * 2
        assert [(one["status"], one["body_encoding"]) for one in lines] == [
            (status, "utf-8"),
            (status, "base64"),
        ]
        arrived = receiver.arrivals[-2:]
        assert [one.body for one in arrived] == bodies
        assert {one.path for one in arrived} == {"/app" if target else path}
        assert {one.header("x-own") for one in arrived} == {"a b"}
        assert {one.header("webhook-id") for one in arrived} == {"evt_1"}
