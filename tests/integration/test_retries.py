"""What becomes of deliveries whose endpoint fails: schedules, dead letters, Retry-After, duplicates."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest

from deploy.receiver.arrival import Arrival
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from tests.integration.hooktide_process import HooktideProcess
from tests.integration.log_dump import dump

DELAYS_MS = (300, 600, 1_200)
SHORT: Mapping[str, str] = {"HOOKTIDE__RETRY__DELAYS_MS": str(list(DELAYS_MS))}
JITTER = 1.25
LATE_MS = 1_000
"""How late an attempt may start on a busy machine; never early."""


def _delivery(hooktide: HooktideProcess, event_id: str, state: str) -> Any:  # noqa: ANN401 - JSON
    page = hooktide.get_until(
        f"events/{event_id}/deliveries",
        lambda page: [d["state"] for d in page["data"]] == [state],
        timeout_s=15,
    )
    return hooktide.get_until(f"deliveries/{page['data'][0]['id']}", lambda d: d["state"] == state)


def _gaps_ms(arrivals: list[Arrival]) -> list[float]:
    times = [arrival.received_at_ns / 1e6 for arrival in arrivals]
    return [after - before for before, after in pairwise(times)]


def test_an_endpoint_that_fails_three_times_gets_its_event_on_attempt_four(hooktide: HooktideProcess) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(fail_first=3))
        hooktide.start(env=SHORT)
        hooktide.create_endpoint(f"{receiver.url}/hook")
        event = hooktide.publish({"n": 1})
        arrivals = receiver.wait_for(4, timeout_s=20)

        delivery = _delivery(hooktide, event["id"], "delivered")

    assert [a.status for a in arrivals] == [500, 500, 500, 200]
    assert len({a.webhook_id for a in arrivals}) == 1
    assert len({a.body for a in arrivals}) == 1
    for gap_ms, delay_ms in zip(_gaps_ms(arrivals), DELAYS_MS, strict=True):
        assert delay_ms <= gap_ms <= delay_ms * JITTER + LATE_MS
    assert [attempt["number"] for attempt in delivery["attempts"]] == [1, 2, 3, 4]
    assert [attempt["status"] for attempt in delivery["attempts"]] == [500, 500, 500, 200]


def test_an_endpoint_that_never_recovers_ends_in_dead_letters_with_the_reason(
    hooktide: HooktideProcess,
) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(status=503))
        hooktide.start(env=SHORT)
        endpoint = hooktide.create_endpoint(f"{receiver.url}/hook")
        event = hooktide.publish({"n": 1})
        delivery = _delivery(hooktide, event["id"], "dead_lettered")
        assert len(receiver.arrivals) == len(DELAYS_MS) + 1
        assert hooktide.terminate() == 0

    assert delivery["reason"] == "retries_exhausted"
    rows = dump(hooktide.data, "SELECT * FROM hooktide.dead_letters")
    assert [(r["event_id"], r["endpoint_id"]) for r in rows] == [(event["id"], endpoint["id"])]
    assert [(r["reason"], r["attempt_count"], r["last_status"]) for r in rows] == [
        ("retries_exhausted", 4, 503)
    ]


@pytest.mark.parametrize(("status", "reason"), [(404, "permanent_status"), (410, "endpoint_gone")])
def test_a_permanent_answer_is_a_dead_letter_at_once(
    hooktide: HooktideProcess, status: int, reason: str
) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(status=status))
        hooktide.start(env=SHORT)
        hooktide.create_endpoint(f"{receiver.url}/hook")
        event = hooktide.publish({"n": 1})

        delivery = _delivery(hooktide, event["id"], "dead_lettered")

        assert (delivery["reason"], len(delivery["attempts"])) == (reason, 1)
        assert len(receiver.arrivals) == 1


def test_retry_after_is_honoured_when_it_is_longer_than_the_schedule(hooktide: HooktideProcess) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(fail_first=1, fail_status=429, retry_after="2"))
        hooktide.start(env=SHORT)
        hooktide.create_endpoint(f"{receiver.url}/hook")
        hooktide.publish({"n": 1})
        arrivals = receiver.wait_for(2, timeout_s=20)

    (gap_ms,) = _gaps_ms(arrivals)
    assert 2_000 <= gap_ms <= 2_000 * JITTER + LATE_MS


def test_a_keyed_publish_twice_and_across_a_restart_is_one_event(hooktide: HooktideProcess) -> None:
    with ReceiverThread() as receiver:
        hooktide.start()
        hooktide.create_endpoint(f"{receiver.url}/hook")
        first = hooktide.publish({"n": 1}, key="order-1")
        again = hooktide.publish({"n": 1}, key="order-1")
        receiver.wait_for(1, timeout_s=10)
        assert hooktide.terminate() == 0
        hooktide.start()
        after_restart = hooktide.publish({"n": 1}, key="order-1")
        other = hooktide.publish({"n": 2}, key="order-2")
        _delivery(hooktide, other["id"], "delivered")
        refused = hooktide.api(
            "POST",
            "events",
            {"tenant_id": "acme", "type": "order.created", "data": {"n": 3}},
            {"Idempotency-Key": "order-1"},
        )
        _delivery(hooktide, first["id"], "delivered")
        arrivals = receiver.arrivals
        assert hooktide.terminate() == 0

    assert first == again == after_restart
    assert refused.status == 422
    assert sorted(a.webhook_id for a in arrivals) == sorted([first["id"], other["id"]])
    rows = dump(hooktide.data, f"SELECT count() AS n FROM hooktide.attempts WHERE event_id = '{first['id']}'")
    assert rows == [{"n": 1}]


def test_a_keyed_publish_is_one_delivery_even_when_the_answers_were_forgotten(
    hooktide: HooktideProcess,
) -> None:
    """The memory of answers is lost with its directory; the key still names the one event."""
    with ReceiverThread() as receiver:
        hooktide.start()
        hooktide.create_endpoint(f"{receiver.url}/hook")
        first = hooktide.publish({"n": 1}, key="order-1")
        _delivery(hooktide, first["id"], "delivered")
        assert hooktide.terminate() == 0
        _forget(hooktide)
        hooktide.start()
        again = hooktide.publish({"n": 1}, key="order-1")
        other = hooktide.publish({"n": 2}, key="order-2")
        _delivery(hooktide, other["id"], "delivered")
        arrivals = receiver.arrivals

    assert first["id"] == again["id"]
    assert sorted(a.webhook_id for a in arrivals) == sorted([first["id"], other["id"]])


def _forget(hooktide: HooktideProcess) -> None:
    directory = hooktide.data / "idempotency"
    assert directory.is_dir()
    directory.rename(hooktide.directory / "lost")
