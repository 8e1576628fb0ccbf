"""A real process under load, killed and stopped: nothing is lost, and repeats stay within their bound."""

import json
import random
import statistics
import threading
import time
from collections import Counter
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from itertools import count
from typing import Self

import pytest

from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from tests.integration.hooktide_process import HooktideProcess
from tests.integration.log_dump import dump

ENDPOINTS = 5
PUBLISHES_PER_S = 160
CONNECTIONS = 6
ROUNDS = 5
ARRIVALS_PER_ROUND = (800, 1_600)
SILENCE_S = 30
WRITE_MS = 5
"""The allowance of the promise for writing an outcome."""


class Publisher:
    """Publishes at a steady rate over a few connections; knows what was acknowledged and what is unsure."""

    def __init__(self, hooktide: HooktideProcess) -> None:
        self.acknowledged: set[str] = set()
        self.unsure_keys: set[str] = set()
        self._hooktide = hooktide
        self._numbers = count()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._stop.clear()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CONNECTIONS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        connection = HTTPConnection(self._hooktide.url.removeprefix("http://"), timeout=5)
        admin_key = self._hooktide.admin_key
        due_s = time.monotonic() + number / PUBLISHES_PER_S  # evenly, not in bursts of all connections
        with closing(connection):
            while not self._stop.wait(max(0.0, due_s - time.monotonic())):
                due_s += CONNECTIONS / PUBLISHES_PER_S
                try:
                    self._publish_one(connection, f"key-{next(self._numbers)}", admin_key)
                except (OSError, HTTPException):
                    return  # the process was killed

    def _publish_one(self, connection: HTTPConnection, key: str, admin_key: str) -> None:
        """Publishes one event; an error leaves it unsure."""
        body = json.dumps({"tenant_id": "acme", "type": "order.created", "data": {"key": key}})
        headers = {
            "Authorization": f"Bearer {admin_key}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }
        self.unsure_keys.add(key)
        connection.request("POST", "/api/v1/events", body, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 202, answer
        self.unsure_keys.discard(key)
        self.acknowledged.add(answer["id"])


def _await_all(receiver: ReceiverThread, expected: set[tuple[str, str]]) -> None:
    """Waits until everything expected has arrived, as long as anything arrives."""
    arrivals = receiver.arrivals
    while missing := expected - {(a.webhook_id, a.path) for a in arrivals}:
        came = receiver.wait_for(len(arrivals) + 1, timeout_s=SILENCE_S)
        assert len(came) > len(arrivals), f"lost: {len(missing)} of {len(expected)}"
        arrivals = came


@pytest.mark.timeout(240)
def test_five_kills_under_load_lose_nothing_and_repeat_little(hooktide: HooktideProcess) -> None:
    rng = random.Random(20_261_123)
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(delay_s=0.01))
        hooktide.start()
        for number in range(ENDPOINTS):
            hooktide.create_endpoint(f"{receiver.url}/{number}")
        publisher = Publisher(hooktide)
        rates = []
        for _ in range(ROUNDS):
            before, began_s = len(receiver.arrivals), time.monotonic()
            with publisher:
                receiver.wait_for(before + rng.randint(*ARRIVALS_PER_ROUND), timeout_s=SILENCE_S)
                time.sleep(rng.random() / 10)  # any moment, not the one in which something arrives
                hooktide.kill()
                rates.append((len(receiver.arrivals) - before) / (time.monotonic() - began_s))
            hooktide.start()
        expected = {(event, f"/{number}") for event in publisher.acknowledged for number in range(ENDPOINTS)}
        _await_all(receiver, expected)
        answers = [hooktide.publish({"key": key}, key=key) for key in sorted(publisher.unsure_keys)]
        expected |= {(answer["id"], f"/{number}") for answer in answers for number in range(ENDPOINTS)}
        _await_all(receiver, expected)
        last = hooktide.publish({"last": True})
        _await_all(receiver, expected | {(last["id"], f"/{number}") for number in range(ENDPOINTS)})
        assert hooktide.terminate() == 0

    arrivals = Counter((a.webhook_id, a.path) for a in receiver.arrivals)
    ghosts = arrivals.keys() - expected - {(last["id"], f"/{number}") for number in range(ENDPOINTS)}
    assert not ghosts
    repeats = (sum(arrivals.values()) - len(arrivals)) / ROUNDS
    rate = statistics.mean(rates)
    latency_ms = statistics.median(_latencies_ms(hooktide))
    print(f"rate {rate:.0f}/s, p50 {latency_ms:.1f} ms, repeats per kill {repeats:.1f}")  # noqa: T201 - the figures
    assert rate >= 500, f"only {rate:.0f} deliveries/s: the load was too small to say anything"
    assert repeats <= 2 * rate * (latency_ms + WRITE_MS) / 1_000


def _latencies_ms(hooktide: HooktideProcess) -> list[float]:
    rows = dump(hooktide.data, "SELECT total_us FROM hooktide.attempts WHERE NOT after_crash")
    return [row["total_us"] / 1_000 for row in rows]


@pytest.mark.timeout(120)
def test_a_stop_under_load_waits_for_slow_answers_and_repeats_nothing(hooktide: HooktideProcess) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(delay_s=9.0))
        hooktide.start()
        for number in range(ENDPOINTS):
            hooktide.create_endpoint(f"{receiver.url}/{number}")
        publisher = Publisher(hooktide)
        with publisher:
            receiver.wait_for(100, timeout_s=20)
            assert hooktide.terminate() == 0
        receiver.behave(Behaviour())
        hooktide.start()
        expected = {(event, f"/{number}") for event in publisher.acknowledged for number in range(ENDPOINTS)}
        for key in sorted(publisher.unsure_keys):
            event = hooktide.publish({"key": key}, key=key)
            expected |= {(event["id"], f"/{number}") for number in range(ENDPOINTS)}
        _await_all(receiver, expected)
        assert hooktide.terminate() == 0

    assert Counter((a.webhook_id, a.path) for a in receiver.arrivals) == Counter(expected)
