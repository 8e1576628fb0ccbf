"""A real process on a real small volume: the disk is filled, gradually and at once, and emptied again."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

import pytest

from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from tests.integration.hooktide_process import HooktideProcess
from tests.integration.log_dump import dump
from tests.integration.small_volume import SmallVolume, can_mount, mounted

VOLUME_BYTES: Final = 256 << 20
STEP_BYTES: Final = 4 << 20
NEARLY_BYTES: Final = 16 << 20
STEP_S: Final = 0.05
ENDPOINTS: Final = 3
CONNECTIONS: Final = 4
PUBLISHES_PER_S: Final = 120
ANSWER_S: Final = 0.05
WAIT_S: Final = 30.0
RECOVERY_S: Final = 30.0

ATTEMPTS: Final = (
    "SELECT delivery_id, number, count() AS n FROM hooktide.attempts GROUP BY delivery_id, number"
)


@pytest.fixture
def volume(hooktide: HooktideProcess, tmp_path: Path) -> Iterator[SmallVolume]:
    """A small volume under the data directory of `hooktide`."""
    if not can_mount(tmp_path / "trial"):
        pytest.skip("this machine lets nobody mount a tmpfs (root, or sudo without a password)")
    with mounted(hooktide.data, VOLUME_BYTES) as small:
        yield small
        hooktide.close()


class Load:
    """Publishes at a steady rate and keeps what came of it.

    Attributes:
        accepted: ids of events that were answered with 202.
        unsure: keys of publishes of which nobody knows whether they were accepted.
        refusals: how often each problem code was answered.
    """

    def __init__(self, hooktide: HooktideProcess) -> None:
        self.accepted: set[str] = set()
        self.unsure: set[str] = set()
        self.refusals: Counter[str] = Counter()
        self._hooktide = hooktide
        self._numbers = count()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._stop.clear()
        self._threads = [threading.Thread(target=self._run) for _ in range(CONNECTIONS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(CONNECTIONS / PUBLISHES_PER_S):
            connection = HTTPConnection(self._hooktide.url.removeprefix("http://"), timeout=5)
            with closing(connection):
                try:
                    while not self._stop.wait(CONNECTIONS / PUBLISHES_PER_S):
                        self._publish(connection, f"key-{next(self._numbers)}")
                except (OSError, HTTPException):
                    continue  # it is being started again; the key stays unsure

    def _publish(self, connection: HTTPConnection, key: str) -> None:
        body = json.dumps(
            {"tenant_id": "acme", "type": "order.created", "data": {"key": key, "pad": "x" * 1_000}}
        )
        headers = {
            "Authorization": f"Bearer {self._hooktide.admin_key}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }
        self.unsure.add(key)
        connection.request("POST", "/api/v1/events", body, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status == 202:
            self.accepted.add(answer["id"])
        else:
            assert response.status == 503, answer
            assert response.getheader("Retry-After") is not None
            self.refusals[answer["code"]] += 1
        if answer.get("code") != "log_unavailable":
            self.unsure.discard(key)


def until(is_so: Callable[[], Any], what: str, hooktide: HooktideProcess, timeout_s: float = WAIT_S) -> None:
    until_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until_s, f"never {what}\n{hooktide.log[-6_000:]}"
        time.sleep(0.02)


def readiness(hooktide: HooktideProcess) -> set[str]:
    try:
        return set(hooktide.api("GET", "/readyz").body.decode().split())
    except (OSError, HTTPException):
        return set()


def said(hooktide: HooktideProcess, event: str) -> bool:
    return any(line["event"] == event for line in hooktide.log_lines)


def assert_reads_go_on_and_writes_are_refused(
    hooktide: HooktideProcess, event_id: str, endpoint_id: str
) -> None:
    ready = hooktide.api("GET", "/readyz")
    assert (ready.status, "disk" in ready.body.decode().split()) == (503, True)
    assert hooktide.api("GET", "/livez").status == 200
    assert hooktide.api("GET", f"webhooks/endpoints/{endpoint_id}?tenant_id=acme").status == 200
    event = hooktide.api("GET", f"events/{event_id}?tenant_id=acme")
    assert (event.status, event.json["id"]) == (200, event_id)
    page = hooktide.api("GET", f"events/{event_id}/deliveries?tenant_id=acme")
    assert (page.status, len(page.json["data"])) == (200, ENDPOINTS)
    for path, body in (
        ("events", {"tenant_id": "acme", "type": "order.created", "data": {}}),
        (
            "webhooks/endpoints",
            {
                "tenant_id": "acme",
                "url": "https://example.com/",
                "event_types": ["*"],
                "verification": "skip",
            },
        ),
    ):
        refused = hooktide.api("POST", path, body)
        assert (refused.status, refused.json["code"]) == (503, "disk_full")
        assert int(refused.headers["retry-after"]) > 0


def settle(hooktide: HooktideProcess, receiver: ReceiverThread, load: Load) -> set[tuple[str, str]]:
    """Publishes what is unsure once more, waits until everything has arrived; returns what had to."""
    for key in sorted(load.unsure):
        load.accepted.add(hooktide.publish({"key": key, "pad": "x" * 1_000}, key=key)["id"])
    expected = {(event, f"/{number}") for event in load.accepted for number in range(ENDPOINTS)}
    until(
        lambda: expected <= {(a.webhook_id, a.path) for a in receiver.arrivals},
        "everything accepted arrived",
        hooktide,
    )
    return expected


def first_delivered(hooktide: HooktideProcess) -> str:
    """Returns the id of an event that the delivery log shows."""
    event_id = str(hooktide.publish({"first": True})["id"])
    hooktide.get_until(
        f"events/{event_id}/deliveries?tenant_id=acme",
        lambda page: [one["state"] for one in page["data"]] == ["delivered"] * ENDPOINTS,
        timeout_s=10.0,
    )
    return event_id


@pytest.mark.timeout(120)
def test_a_disk_that_fills_up_stops_intake_before_anything_fails(
    hooktide: HooktideProcess, volume: SmallVolume
) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(delay_s=ANSWER_S))
        hooktide.start()
        endpoints = [hooktide.create_endpoint(f"{receiver.url}/{number}") for number in range(ENDPOINTS)]
        load = Load(hooktide)
        load.accepted.add(event_id := first_delivered(hooktide))
        with load:
            receiver.wait_for(200, timeout_s=WAIT_S)
            while "disk" not in readiness(hooktide):
                volume.take(STEP_BYTES)
                time.sleep(STEP_S)  # the pace of a disk, and not of memory
            until(lambda: load.refusals["disk_full"] >= 20, "refused", hooktide)
            assert_reads_go_on_and_writes_are_refused(hooktide, event_id, endpoints[0]["id"])
            accepted = len(load.accepted)
            until(lambda: load.refusals["disk_full"] >= 60, "refused on", hooktide)
            assert len(load.accepted) == accepted
            volume.give_back()
            until(lambda: len(load.accepted) >= accepted + 50, "accepted again", hooktide, RECOVERY_S)
        assert readiness(hooktide) == {"ready"}
        expected = settle(hooktide, receiver, load)
        assert hooktide.terminate() == 0

    assert said(hooktide, "disk_nearly_full")
    assert said(hooktide, "disk_has_room")
    assert not said(hooktide, "part_died")
    assert not said(hooktide, "disk_full")
    assert Counter((a.webhook_id, a.path) for a in receiver.arrivals) == Counter(expected)
    rows = dump(hooktide.data, ATTEMPTS)
    assert [(row["number"], row["n"]) for row in rows] == [(1, 1)] * len(expected)


@pytest.mark.timeout(150)
def test_a_disk_that_is_full_at_once_ends_no_reads_and_loses_nothing(
    hooktide: HooktideProcess, volume: SmallVolume
) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(delay_s=ANSWER_S))
        hooktide.start()
        endpoints = [hooktide.create_endpoint(f"{receiver.url}/{number}") for number in range(ENDPOINTS)]
        load = Load(hooktide)
        load.accepted.add(event_id := first_delivered(hooktide))
        with load:
            receiver.wait_for(200, timeout_s=WAIT_S)
            volume.take_all()
            until(lambda: said(hooktide, "disk_nearly_full"), "noticed", hooktide)
            until(lambda: load.refusals["disk_full"] >= 60, "refused", hooktide)
            volume.take_all()  # what was freed meanwhile too
            until(lambda: load.refusals["disk_full"] >= 300, "refused on", hooktide)
            assert_reads_go_on_and_writes_are_refused(hooktide, event_id, endpoints[0]["id"])
            assert hooktide.process.poll() is None
            volume.give_back()
            recovered_by_itself(hooktide, RECOVERY_S)
            accepted = len(load.accepted)
            until(lambda: len(load.accepted) >= accepted + 50, "accepted again", hooktide)
        expected = settle(hooktide, receiver, load)
        assert hooktide.terminate() == 0

    arrivals = Counter((a.webhook_id, a.path) for a in receiver.arrivals)
    repeats = sum(arrivals.values()) - len(arrivals)
    rows = dump(hooktide.data, ATTEMPTS)
    print(f"{len(expected)} deliveries, {repeats} repeats, {dict(load.refusals)}")  # noqa: T201 - the figures
    assert set(arrivals) == expected
    assert max(arrivals.values()) <= 2
    # What was in flight when the disk was full: an answer takes 50 ms, and outcomes are written 5 ms later.
    assert repeats <= 2 * ENDPOINTS * PUBLISHES_PER_S * (ANSWER_S + 0.1)
    assert [(row["number"], row["n"]) for row in rows] == [(1, 1)] * len(expected)


def recovered_by_itself(hooktide: HooktideProcess, timeout_s: float) -> None:
    until_s = time.monotonic() + timeout_s
    while readiness(hooktide) != {"ready"}:
        assert time.monotonic() < until_s, hooktide.log[-6_000:]
        if hooktide.process.poll() is not None:
            assert hooktide.wait() == 1
            hooktide.start()
        time.sleep(0.05)


@pytest.mark.timeout(90)
def test_a_start_on_a_full_disk_can_be_tried_again_and_on_a_nearly_full_one_serves_reads(
    hooktide: HooktideProcess, volume: SmallVolume
) -> None:
    with ReceiverThread() as receiver:
        hooktide.start()
        endpoints = [hooktide.create_endpoint(f"{receiver.url}/{number}") for number in range(ENDPOINTS)]
        event_id = first_delivered(hooktide)
        assert hooktide.terminate() == 0

        volume.take_all()
        assert hooktide.launch().wait() == 1
        assert "make room and start again" in hooktide.log
        volume.give_back()
        volume.take(volume.free_bytes - NEARLY_BYTES)
        hooktide.start()
        assert readiness(hooktide) == {"disk"}
        assert_reads_go_on_and_writes_are_refused(hooktide, event_id, endpoints[0]["id"])

        volume.give_back()
        until(lambda: readiness(hooktide) == {"ready"}, "ready", hooktide, RECOVERY_S)
        second = hooktide.publish({"second": True})["id"]
        expected = {(event, f"/{number}") for event in (event_id, second) for number in range(ENDPOINTS)}
        until(
            lambda: expected == {(a.webhook_id, a.path) for a in receiver.arrivals},
            "delivered again",
            hooktide,
        )
        assert hooktide.terminate() == 0
    assert len(receiver.arrivals) == len(expected)
