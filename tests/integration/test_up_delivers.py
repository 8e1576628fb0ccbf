"""`up`, from the outside: a publish arrives signed, is shown, and survives a stop, a kill and a restart."""

from collections.abc import Iterator

import pytest

from deploy.receiver.arrival import Arrival
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from operators.signing import decode_secret
from tests.integration.hooktide_process import HooktideProcess, await_events

ARRIVES_S = 15.0


@pytest.fixture
def receiver() -> Iterator[ReceiverThread]:
    with ReceiverThread() as thread:
        yield thread


def subscribe(hooktide: HooktideProcess, receiver: ReceiverThread, path: str = "/hooks") -> str:
    """Creates an endpoint at the receiver, which learns its secret; returns its id."""
    created = hooktide.create_endpoint(receiver.url + path)
    receiver.trust([decode_secret(created["secret"])], path)
    return str(created["id"])


def ids(arrivals: list[Arrival]) -> list[str]:
    return [arrival.webhook_id for arrival in arrivals]


def test_a_published_event_arrives_signed_and_is_shown_with_its_attempt(
    hooktide: HooktideProcess, receiver: ReceiverThread
) -> None:
    hooktide.start()
    assert hooktide.api("GET", "/livez").status == 200
    assert hooktide.api("GET", "/readyz").body == b"ready\n"
    endpoint_id = subscribe(hooktide, receiver)

    event = hooktide.publish({"order": 7})
    arrivals = receiver.wait_for(1, ARRIVES_S)

    assert ids(arrivals) == [event["id"]], hooktide.log
    assert arrivals[0].verdict == "ok"
    assert hooktide.api("GET", f"events/{event['id']}").json["type"] == "order.created"
    path = f"events/{event['id']}/deliveries"
    shown = hooktide.get_until(path, lambda page: [one["state"] for one in page["data"]] == ["delivered"])
    delivery_id = shown["data"][0]["id"]
    detail = hooktide.get_until(f"deliveries/{delivery_id}", lambda one: len(one["attempts"]) == 1)
    assert detail["endpoint_id"] == endpoint_id
    assert detail["attempts"][0]["status"] == 200
    assert hooktide.terminate() == 0, hooktide.log
    assert ids(receiver.arrivals) == [event["id"]]


def test_a_restart_keeps_endpoints_history_and_keyed_publishes(
    hooktide: HooktideProcess, receiver: ReceiverThread
) -> None:
    hooktide.start()
    subscribe(hooktide, receiver)
    first = hooktide.publish({"n": 1}, key="order-1")
    assert len(receiver.wait_for(1, ARRIVES_S)) == 1, hooktide.log
    assert hooktide.terminate() == 0, hooktide.log

    hooktide.start()
    again = hooktide.publish({"n": 1}, key="order-1")
    other = hooktide.publish({"n": 2})
    arrivals = receiver.wait_for(2, ARRIVES_S)

    assert again["id"] == first["id"]
    assert ids(arrivals) == [first["id"], other["id"]], hooktide.log
    assert {arrival.verdict for arrival in arrivals} == {"ok"}
    assert hooktide.api("GET", f"events/{first['id']}").status == 200
    assert hooktide.terminate() == 0, hooktide.log
    assert len(receiver.arrivals) == 2


def test_a_kill_loses_nothing_that_was_accepted(hooktide: HooktideProcess, receiver: ReceiverThread) -> None:
    hooktide.start()
    subscribe(hooktide, receiver)
    receiver.behave(Behaviour(delay_s=0.2), "/hooks")  # so that the kill meets some in flight
    accepted = {hooktide.publish({"n": number})["id"] for number in range(40)}
    hooktide.kill()
    receiver.behave(Behaviour(), "/hooks")

    hooktide.start()
    accepted.add(hooktide.publish({"n": "after"})["id"])
    arrived = await_events(receiver, accepted)

    assert arrived == accepted, hooktide.log
    assert {arrival.verdict for arrival in receiver.arrivals} == {"ok"}


def test_a_stop_waits_for_what_is_in_flight_and_repeats_nothing(
    hooktide: HooktideProcess, receiver: ReceiverThread
) -> None:
    hooktide.start()
    subscribe(hooktide, receiver)
    receiver.behave(Behaviour(delay_s=1.5), "/hooks")
    event = hooktide.publish({"slow": True})
    receiver.wait_for(1, ARRIVES_S)

    assert hooktide.terminate() == 0, hooktide.log

    hooktide.start()
    path = f"events/{event['id']}/deliveries"
    hooktide.get_until(path, lambda page: [one["state"] for one in page["data"]] == ["delivered"])
    assert hooktide.terminate() == 0, hooktide.log
    assert ids(receiver.arrivals) == [event["id"]]


def test_a_failed_attempt_is_tried_again_by_the_schedule_of_the_settings(
    hooktide: HooktideProcess, receiver: ReceiverThread
) -> None:
    hooktide.start(env={"HOOKTIDE__RETRY__DELAYS_MS": "200,200,200"})
    subscribe(hooktide, receiver)
    receiver.behave(Behaviour(fail_first=2), "/hooks")

    event = hooktide.publish({"n": 1})
    arrivals = receiver.wait_for(3, ARRIVES_S)

    assert ids(arrivals) == [event["id"]] * 3, hooktide.log
    assert [arrival.status for arrival in arrivals] == [500, 500, 200]
