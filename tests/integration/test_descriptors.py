"""A real process with few file descriptors, and one that has none left for a while."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from socket import create_connection, socket
from typing import Any, Final

import pytest

from deploy.checks import ROOT
from deploy.process.descriptors import plan_descriptors
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from tests.integration.hooktide_process import HooktideProcess
from tests.integration.log_dump import dump

LIMIT: Final = 256
PLAN: Final = plan_descriptors(4_096, LIMIT, 1)
WAIT_S: Final = 30.0
ONE_SHARD: Final = {"HOOKTIDE__LOG__SHARDS": "1"}
ATTEMPTS: Final = "SELECT delivery_id, number, status, count() AS n FROM hooktide.attempts GROUP BY ALL"


def limited_to(descriptors: int) -> tuple[str, ...]:
    """Returns what starts a command with so few descriptors, soft and hard."""
    return ("sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh")


def open_descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def until(is_so: Callable[[], Any], what: str, hooktide: HooktideProcess) -> None:
    until_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < until_s, f"never {what}\n{hooktide.log[-6_000:]}"
        time.sleep(0.01)


def assert_every_attempt_is_logged_once(hooktide: HooktideProcess, count: int) -> None:
    rows = dump(hooktide.data, ATTEMPTS)
    assert [(row["number"], row["status"], row["n"]) for row in rows] == [(1, 200, 1)] * count


@pytest.mark.timeout(120)
def test_more_endpoints_than_descriptors_are_served_in_turn(hooktide: HooktideProcess) -> None:
    endpoints, events = LIMIT + 44, 6
    hooktide.prefix = limited_to(LIMIT)
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(delay_s=0.02))
        hooktide.start(env=ONE_SHARD)
        assert f"{PLAN.slot_plan.slots} at once" in hooktide.greeting
        assert str(LIMIT) in hooktide.greeting
        for number in range(endpoints):
            hooktide.create_endpoint(f"{receiver.url}/{number}")
        published = [hooktide.publish({"n": number})["id"] for number in range(events)]
        pid, most = hooktide.process.pid, 0
        crowd: list[socket] = []
        total = events * endpoints
        while len(receiver.arrivals) < total:
            came = receiver.wait_for(min(len(receiver.arrivals) + 50, total), timeout_s=WAIT_S)
            most = max(most, open_descriptors(pid))
            if not crowd and len(came) > endpoints:  # far more clients than there are descriptors
                address = hooktide.url.removeprefix("http://").rsplit(":", 1)
                crowd = [create_connection((address[0], int(address[1]))) for _ in range(2 * LIMIT)]
        for client in crowd:
            client.close()
        until(lambda: hooktide.api("GET", "/readyz").status == 200, "ready without the crowd", hooktide)
        assert hooktide.terminate() == 0

    arrivals = Counter((a.webhook_id, a.path) for a in receiver.arrivals)
    print(f"at most {most} of {LIMIT} descriptors, {PLAN.slot_plan.slots} slots")  # noqa: T201 - the figures
    assert crowd
    assert most <= LIMIT
    assert arrivals == Counter((event, f"/{n}") for event in published for n in range(endpoints))
    assert_every_attempt_is_logged_once(hooktide, events * endpoints)
    assert "part_died" not in hooktide.log
    assert "Too many open files" not in hooktide.log


def test_too_few_descriptors_are_refused_in_a_sentence(hooktide: HooktideProcess) -> None:
    hooktide.prefix = limited_to(128)

    assert hooktide.launch().wait() == 3
    assert "128 file descriptors are too few for 8 shards" in hooktide.log


@pytest.mark.timeout(90)
def test_a_machine_out_of_descriptors_costs_no_attempt_and_loses_nothing(hooktide: HooktideProcess) -> None:
    """Stores open files all the time: one that cannot ends the process, and a supervisor starts it again."""
    endpoints = 20
    with ReceiverThread() as receiver, ReceiverThread() as first:
        hooktide.start(env=ONE_SHARD)
        for number in range(endpoints):
            hooktide.create_endpoint(f"{receiver.url}/{number}", ["order.created"])
        hooktide.create_endpoint(f"{first.url}/first", ["first"])
        first_id = hooktide.publish({}, "first")["id"]  # makes the files that a store cannot be without
        hooktide.get_until(
            f"events/{first_id}/deliveries?tenant_id=acme",
            lambda page: [one["state"] for one in page["data"]] == ["delivered"],
            timeout_s=WAIT_S,
        )
        pid = hooktide.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        with closing(HTTPConnection(hooktide.url.removeprefix("http://"), timeout=10)) as kept:
            kept.request("GET", "/livez")
            assert kept.getresponse().read() == b"ok\n"
            # Below what is open already: whatever wants one more is told that there is none.
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
            # The kernel takes it, and the process cannot: it may be turned away, and nothing worse.
            turned_away = create_connection((kept.host, kept.port))
            body = json.dumps({"tenant_id": "acme", "type": "order.created", "data": {}})
            headers = {"Authorization": f"Bearer {hooktide.admin_key}", "Content-Type": "application/json"}
            kept.request("POST", "/api/v1/events", body, headers)
            accepted = kept.getresponse()
            event_id = json.loads(accepted.read())["id"]
            assert accepted.status == 202
            time.sleep(2.5)  # several tries of ours come to nothing: there is no sign of it to wait for
            assert receiver.arrivals == []
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            turned_away.close()
        started_again_if_ended(hooktide)
        receiver.wait_for(endpoints, timeout_s=WAIT_S)
        until(lambda: hooktide.api("GET", "/readyz").status == 200, "ready", hooktide)
        assert hooktide.terminate() == 0

    assert Counter((a.webhook_id, a.path) for a in receiver.arrivals) == Counter(
        (event_id, f"/{number}") for number in range(endpoints)
    )
    assert len(first.arrivals) == 1
    assert_every_attempt_is_logged_once(hooktide, 1 + endpoints)


def started_again_if_ended(hooktide: HooktideProcess) -> None:
    if "part_died" in hooktide.log:
        assert hooktide.wait() == 1
        hooktide.start(env=ONE_SHARD)


def test_a_machine_out_of_local_ports_costs_no_attempt() -> None:
    unshare = [shutil.which("unshare") or "unshare", *([] if os.getuid() == 0 else ["-r"]), "--net"]
    can_unshare = subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode == 0
    if not can_unshare:
        pytest.skip("this machine gives nobody a network namespace (root, or unprivileged user namespaces)")
    script = Path(__file__).with_name("few_local_ports.py")

    done = subprocess.run(
        [*unshare, sys.executable, str(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.returncode == 0, done.stderr
    codes = Counter(json.loads(done.stdout))
    assert set(codes) == {"", "our_fault"}
    assert codes["our_fault"] >= 10
