"""What an endpoint's settings do to deliveries, in a real `up`: held, released, cancelled, signed twice."""

from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from deploy.receiver.arrival import Arrival
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from tests.integration.hooktide_process import HooktideProcess, await_events

COUNT = 40
ROUNDS = 300
CANCELLED_WITHIN_S = 5.0
VERIFICATION = b'"type":"endpoint.verification"'


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HooktideProcess]:
    """One process for all: each test has endpoints, event types and paths of its own."""
    hooktide = HooktideProcess(tmp_path_factory.mktemp("up"))
    hooktide.start(env={"HOOKTIDE__API__VERIFICATION_DELAYS_MS": "0,200,200,200,200,200,200,200,200,200"})
    yield hooktide
    code = hooktide.terminate()
    assert code == 0, hooktide.log


@pytest.fixture
def receiver() -> Iterator[ReceiverThread]:
    with ReceiverThread() as thread:
        yield thread


def path_of(endpoint: dict[str, Any]) -> str:
    return f"webhooks/endpoints/{endpoint['id']}"


def act(hooktide: HooktideProcess, endpoint: dict[str, Any], action: str, expected: str) -> None:
    answer = hooktide.api("POST", f"{path_of(endpoint)}/{action}")
    assert (answer.status, answer.json["status"]) == (200, expected), answer.body


def publish_some(hooktide: HooktideProcess, event_type: str, count: int = COUNT) -> set[str]:
    return {hooktide.publish({"n": number}, event_type)["id"] for number in range(count)}


def states(hooktide: HooktideProcess, event_ids: set[str]) -> set[str]:
    pages = [hooktide.api("GET", f"events/{event_id}/deliveries").json for event_id in event_ids]
    return {one["state"] for page in pages for one in page["data"]}


def signatures_of(arrival: Arrival) -> list[str]:
    return arrival.header("webhook-signature").split()


def is_signed_with(arrival: Arrival, secret: str) -> bool:
    try:
        Webhook(secret).verify(arrival.body, dict(arrival.headers))
    except WebhookVerificationError:
        return False
    return True


def test_events_of_an_unverified_endpoint_are_held_and_released_when_it_answers(
    up: HooktideProcess, receiver: ReceiverThread
) -> None:
    receiver.behave(Behaviour(status=500))
    endpoint = up.create_endpoint(f"{receiver.url}/late", ["late.*"], verification="async")
    assert endpoint["status"] == "unverified"
    wanted = publish_some(up, "late.one")
    receiver.wait_for(2, 15)
    assert all(VERIFICATION in one.body for one in receiver.arrivals), "events wait for the verification"

    receiver.behave(Behaviour())
    assert await_events(receiver, wanted) >= wanted, up.log
    assert up.api("GET", path_of(endpoint)).json["status"] == "active"
    first = next(place for place, one in enumerate(receiver.arrivals) if one.webhook_id in wanted)
    assert receiver.arrivals[first - 1].status == 200
    assert VERIFICATION in receiver.arrivals[first - 1].body


@pytest.mark.parametrize(
    ("stop", "stopped", "go"), [("pause", "paused", "resume"), ("disable", "disabled", "enable")]
)
def test_what_comes_while_it_is_paused_or_disabled_is_held_and_then_arrives_once(
    up: HooktideProcess, receiver: ReceiverThread, stop: str, stopped: str, go: str
) -> None:
    probe = up.create_endpoint(f"{receiver.url}/probe", [f"{stop}.*"])
    endpoint = up.create_endpoint(f"{receiver.url}/held", [f"{stop}.*"])
    act(up, endpoint, stop, stopped)
    wanted = publish_some(up, f"{stop}.one")
    await_events(receiver, wanted)  # the other endpoint has them all
    assert {one.path for one in receiver.arrivals} == {"/probe"}
    assert up.api("DELETE", path_of(probe)).status == 204

    act(up, endpoint, go, "active")
    arrivals = receiver.wait_for(2 * COUNT, 15)
    assert sorted(one.webhook_id for one in arrivals if one.path == "/held") == sorted(wanted), up.log


def test_deleting_cancels_what_waits_within_five_seconds(
    up: HooktideProcess, receiver: ReceiverThread
) -> None:
    endpoint = up.create_endpoint(f"{receiver.url}/gone", ["gone.*"])
    act(up, endpoint, "pause", "paused")
    wanted = publish_some(up, "gone.one")
    assert up.api("DELETE", path_of(endpoint)).status == 204
    for event_id in wanted:
        up.get_until(
            f"events/{event_id}/deliveries",
            lambda page: [one["state"] for one in page["data"]] == ["cancelled"],
            CANCELLED_WITHIN_S,
        )
    assert receiver.arrivals == []
    assert states(up, wanted) == {"cancelled"}


def test_a_410_disables_and_enabling_sends_again(up: HooktideProcess, receiver: ReceiverThread) -> None:
    receiver.behave(Behaviour(status=410))
    endpoint = up.create_endpoint(f"{receiver.url}/410", ["bye.*"])
    up.publish({}, "bye.one")
    disabled = up.get_until(path_of(endpoint), lambda one: one["status"] == "disabled")
    assert disabled["disabled_at"] is not None
    wanted = publish_some(up, "bye.two", 3)

    receiver.behave(Behaviour())
    act(up, endpoint, "enable", "active")
    assert await_events(receiver, wanted) >= wanted, up.log


def test_both_secrets_sign_during_the_overlap_and_the_old_one_no_longer_after_it(
    up: HooktideProcess, receiver: ReceiverThread
) -> None:
    endpoint = up.create_endpoint(f"{receiver.url}/rotate", ["rotate.*"])
    old = endpoint["secret"]

    def rotate(**body: object) -> str:
        answer = up.api("POST", f"{path_of(endpoint)}/secret/rotate", body)
        assert answer.status == 200, answer.body
        secret: str = answer.json["secret"]
        return secret

    def sent(signers: int) -> Arrival:
        """Publishes until an arrival carries so many signatures: changes reach a shard within seconds."""
        while True:
            count = len(receiver.arrivals)
            up.publish({}, "rotate.one")
            arrival = receiver.wait_for(count + 1, 15)[-1]
            if len(signatures_of(arrival)) == signers:
                return arrival

    assert is_signed_with(sent(1), old)
    new = rotate(overlap_seconds=2)
    both = sent(2)
    assert is_signed_with(both, old)
    assert is_signed_with(both, new)
    alone = sent(1)  # the overlap is over
    assert is_signed_with(alone, new)
    assert not is_signed_with(alone, old)
    newest = rotate(overlap_seconds=0)
    while not is_signed_with(last := sent(1), newest):
        pass
    assert not is_signed_with(last, new)


def test_an_endpoint_published_to_at_once_gets_it_every_time(
    up: HooktideProcess, receiver: ReceiverThread
) -> None:
    wanted = set()
    for number in range(ROUNDS):
        up.create_endpoint(f"{receiver.url}/{number}", [f"fresh.n{number}"])
        published = up.publish({"n": number}, f"fresh.n{number}")
        assert published["matched_endpoints"] == 1
        wanted.add(published["id"])
    assert await_events(receiver, wanted, 30) >= wanted, up.log
    assert len(receiver.arrivals) == ROUNDS


def test_a_test_event_arrives_at_its_endpoint_alone(up: HooktideProcess, receiver: ReceiverThread) -> None:
    endpoint = up.create_endpoint(f"{receiver.url}/mine", ["never.this"])
    up.create_endpoint(f"{receiver.url}/other", ["never.that"])
    answer = up.api("POST", f"{path_of(endpoint)}/test")
    assert answer.status == 202
    (arrival,) = receiver.wait_for(1, 15)
    assert (arrival.path, arrival.webhook_id) == ("/mine", answer.json["id"])
    assert b'"type":"endpoint.test"' in arrival.body


def test_a_stop_does_not_wait_for_a_receiver_that_never_answers_a_verification(
    hooktide: HooktideProcess, receiver: ReceiverThread
) -> None:
    receiver.behave(Behaviour(hang=True))
    hooktide.start()
    pending = hooktide.create_endpoint(f"{receiver.url}/hangs", verification="async", timeout_ms=30_000)
    receiver.wait_for(1, 15)
    assert hooktide.terminate() == 0, hooktide.log

    receiver.behave(Behaviour())
    hooktide.start()
    hooktide.get_until(path_of(pending), lambda one: one["status"] == "active")
    assert hooktide.terminate() == 0, hooktide.log
