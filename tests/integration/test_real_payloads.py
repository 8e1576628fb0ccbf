"""All real payloads to ten endpoints: each arrives once, verifiably signed, with one log row."""

import base64
import json
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from deploy.checks import ROOT
from deploy.receiver.arrival import Arrival
from deploy.receiver.receiver import ReceiverThread
from tests.integration.hooktide_process import HooktideProcess
from tests.integration.log_dump import dump

PAYLOADS = ROOT / "deploy" / "payloads" / "github-events.jsonl"
ENDPOINTS = 10
PUBLISHERS = 4

ATTEMPTS = """
SELECT event_id, endpoint_id, number, status, attempt_id, error_code, requests_sent, after_crash,
       toUnixTimestamp64Milli(started_at) AS started_at_ms, toUnixTimestamp64Milli(finished_at) AS
       finished_at_ms
FROM hooktide.attempts
"""


@pytest.mark.real_node
@pytest.mark.timeout(180)
def test_every_payload_reaches_every_endpoint_once(hooktide: HooktideProcess, node_project: Path) -> None:
    events = [json.loads(line) for line in PAYLOADS.read_text().splitlines()]
    with ReceiverThread() as receiver:
        hooktide.start()
        endpoints = [hooktide.create_endpoint(f"{receiver.url}/{n}", ["github.*"]) for n in range(ENDPOINTS)]
        with ThreadPoolExecutor(PUBLISHERS) as pool:
            answers = list(pool.map(lambda event: hooktide.publish(event["data"], event["type"]), events))
        arrivals = receiver.wait_for(len(events) * ENDPOINTS, timeout_s=60)
        last = answers[-1]["id"]
        hooktide.get_until(
            f"events/{last}/deliveries",
            lambda page: [d["state"] for d in page["data"]] == ["delivered"] * ENDPOINTS,
            timeout_s=20,
        )
        assert hooktide.terminate() == 0
        assert len(receiver.arrivals) == len(events) * ENDPOINTS

    assert all(answer["matched_endpoints"] == ENDPOINTS for answer in answers)
    _each_body_is_its_event(events, answers, arrivals)
    expected = {(answer["id"], f"/{n}") for answer in answers for n in range(ENDPOINTS)}
    assert Counter((a.webhook_id, a.path) for a in arrivals) == Counter(expected)
    secrets = {f"/{n}": endpoint["secret"] for n, endpoint in enumerate(endpoints)}
    _the_pypi_verifier_accepts(arrivals, secrets)
    _the_npm_verifier_accepts(node_project, arrivals, secrets)
    paths = {endpoint["id"]: f"/{n}" for n, endpoint in enumerate(endpoints)}
    _the_log_equals_the_receivers_record(hooktide.data, arrivals, paths)


def _each_body_is_its_event(events: list[dict], answers: list[dict], arrivals: list[Arrival]) -> None:  # type: ignore[type-arg]
    by_id = {answer["id"]: event for answer, event in zip(answers, events, strict=True)}
    for arrival in arrivals:
        body = json.loads(arrival.body)
        event = by_id[arrival.webhook_id]
        assert body["id"] == arrival.webhook_id
        assert (body["type"], body["data"]) == (event["type"], event["data"])


def _the_pypi_verifier_accepts(arrivals: list[Arrival], secrets: dict[str, str]) -> None:
    for arrival in arrivals:
        Webhook(secrets[arrival.path]).verify(arrival.body, dict(arrival.headers))


def _the_npm_verifier_accepts(node_project: Path, arrivals: list[Arrival], secrets: dict[str, str]) -> None:
    node = shutil.which("node")
    assert node is not None
    lines = [
        json.dumps(
            {
                "secret": secrets[arrival.path],
                "headers": dict(arrival.headers),
                "body": base64.b64encode(arrival.body).decode(),
            }
        )
        for arrival in arrivals
    ]
    done = subprocess.run(
        [node, "verify.mjs"],
        cwd=node_project,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(arrivals)


def _the_log_equals_the_receivers_record(data: Path, arrivals: list[Arrival], paths: dict[str, str]) -> None:
    rows = dump(data, ATTEMPTS)
    seen = {(a.webhook_id, a.path): a for a in arrivals}
    assert Counter((row["event_id"], paths[row["endpoint_id"]]) for row in rows) == Counter(seen.keys())
    assert len({row["attempt_id"] for row in rows}) == len(rows)
    for row in rows:
        arrival = seen[row["event_id"], paths[row["endpoint_id"]]]
        assert (row["status"], row["number"], row["error_code"]) == (arrival.status, 1, "")
        assert row["requests_sent"] == 1
        assert not row["after_crash"]
        received_at_ms = arrival.received_at_ns // 1_000_000
        assert row["started_at_ms"] - 1 <= received_at_ms <= row["finished_at_ms"] + 1
