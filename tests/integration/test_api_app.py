"""The API from outside: what it answers, what it writes to the log, and what it shows afterwards."""

import asyncio
import base64
import json
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from standardwebhooks.webhooks import Webhook

from api.actions.publish_event import PublishEvents
from api.auth import ADMIN
from api.endpoint_view import EndpointView
from api.log_writes import LogWrites
from api.metrics import ApiMetrics
from api.recent_events import RecentEvents
from dataflows.connectors.delivery_log.chdb import ChdbLog
from dataflows.connectors.idempotency_store import IdempotencyStore
from dataflows.connectors.key_ring import KeyRing
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Entry, OnAppended, TopicPartition
from dataflows.connectors.table_view import TableView
from schemas.attempt import Attempt
from schemas.delivery import Delivery, DeliveryState, EventPosition, Lane
from schemas.errors import StoreUnavailable
from schemas.ids import delivery_id, event_id_from_key, partition_of
from schemas.outcome import ErrorCode, Hop
from schemas.rest.times import rfc3339
from schemas.topics import DELIVERIES, ENDPOINTS, EVENTS, TRANSITIONS
from schemas.transition import Reason, RowStamp, Transition, TransitionKey
from schemas.wire.records import (
    DELIVERY,
    ENDPOINT,
    TRANSITION,
    TRANSITION_KEY,
    decode_event,
    encode_event,
)
from tests.integration.api_world import (
    ADMIN_KEY,
    DELIVERIES_PATH,
    ENDPOINTS_PATH,
    EVENTS_PATH,
    MASTER_KEY,
    ApiWorld,
    make_settings,
    now_ms,
    open_log,
    unused_store,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chdb")


@pytest.fixture(scope="module")
def delivery_log(directory: Path) -> Iterator[ChdbLog]:
    """Stays empty: what nobody has recorded yet."""
    log = ChdbLog(directory, "empty")
    log.migrate()
    yield log
    log.close()


@pytest.fixture
def own_delivery_log(directory: Path) -> Iterator[ChdbLog]:
    """For a test that records: positions of its log mean other records than those of the next test's."""
    log = ChdbLog(directory, f"test_{next(_numbers)}")
    log.migrate()
    yield log
    log.close()


_numbers = count()


class SilentLog:
    """The real log; when silent it writes but does not acknowledge, as a broker behind a cut line."""

    def __init__(self, log: LocalLog) -> None:
        self._log = log
        self.is_silent = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - everything else is the log's
        return getattr(self._log, name)

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        if self.is_silent:
            self._log.append_and_wait(to, entries)
        else:
            self._log.append(to, entries, on_appended)


class Unanswering:
    """A delivery log that is down."""

    def migrate(self) -> list[str]:
        raise StoreUnavailable("down")

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:  # noqa: ARG002
        raise StoreUnavailable("down")

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:  # noqa: ARG002
        raise StoreUnavailable("down")

    def close(self) -> None:
        pass


async def fanned_out(world: ApiWorld, event_id: str, endpoint_id: str) -> Delivery:
    """Does what `route` does for one endpoint, and returns the delivery."""
    delivery = Delivery(
        id=delivery_id(event_id, endpoint_id),
        event_id=event_id,
        endpoint_id=endpoint_id,
        tenant_id="acme",
        event_type="order.created",
        replay_id="",
        body=b"{}",
        digest=b"12345678",
        recorded_at_ms=now_ms(),
        event_position=EventPosition(0, 0),
        matched_at=0,
    )
    world.append(
        DELIVERIES.name, partition_of(endpoint_id, 2), delivery.id.encode(), DELIVERY.encode(delivery)
    )
    return delivery


@pytest.fixture
def publishes(tmp_path: Path) -> Iterator[PublishEvents]:
    log = open_log(tmp_path / "alone")
    view = EndpointView(TableView(log, ENDPOINTS.name, ENDPOINT.decode))
    yield PublishEvents(
        LogWrites(log, 1_000),
        view,
        RecentEvents(),
        ApiMetrics(CollectorRegistry()),
        partitions=2,
        clock_ms=now_ms,
        entropy=os.urandom,
    )
    log.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[IdempotencyStore]:
    store = IdempotencyStore(tmp_path / "idempotency")
    yield store
    store.close()


@pytest.fixture
async def world(tmp_path: Path, delivery_log: ChdbLog, store: IdempotencyStore) -> AsyncIterator[ApiWorld]:
    log = open_log(tmp_path / "log")
    async with ApiWorld(log, delivery_log, store).running() as world:
        yield world
    log.close()


@pytest.fixture
async def recording(
    tmp_path: Path, own_delivery_log: ChdbLog, store: IdempotencyStore
) -> AsyncIterator[ApiWorld]:
    log = open_log(tmp_path / "log")
    async with ApiWorld(log, own_delivery_log, store).running() as world:
        yield world
    log.close()


async def test_an_endpoint_is_created_shown_once_with_its_secret_and_read_back_without(
    world: ApiWorld,
) -> None:
    answer = await world.ask(
        "POST",
        ENDPOINTS_PATH,
        json={
            "tenant_id": "acme",
            "url": "https://Example.com/hook",
            "event_types": ["order.*", "invoice.paid"],
            "verification": "skip",
        },
    )
    assert answer.status == 201
    created = answer.json
    assert created["url"] == "https://example.com/hook"
    assert created["event_types"] == ["order.*", "invoice.paid"]
    assert created["status"] == "active"
    assert re.fullmatch(r"ep_[0-9a-z]{26}", created["id"])
    assert answer.headers["Location"] == f"{ENDPOINTS_PATH}/{created['id']}"
    assert answer.headers["ETag"] == '"1-active"'
    secret = created.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32

    read = await world.ask("GET", answer.headers["Location"])
    assert (read.status, read.json, read.headers["ETag"]) == (200, created, '"1-active"')

    record = world.records(ENDPOINTS.name)[0]
    assert record.key == created["id"].encode()
    stored = ENDPOINT.decode(record.value or b"")
    opened = KeyRing([MASTER_KEY]).open_secrets(stored, 0)
    assert Webhook(secret)._whsecret == opened[0]
    assert opened[0] not in (record.value or b"")


async def test_settings_of_an_endpoint_reach_its_record(world: ApiWorld) -> None:
    secret = "whsec_" + base64.b64encode(bytes(range(24))).decode()
    created = await world.create_endpoint(
        "acme",
        "*",
        secret=secret,
        description="orders",
        headers={"X-Team": "a", "Authorization": "Bearer abc"},
        retry={"delays_seconds": [0.5, 60], "window_seconds": 3_600},
        timeout_ms=5_000,
        redirects="fail",
        client_errors="retry",
        verification="skip",
        api_version="1",
    )
    assert created["secret"] == secret
    assert created["headers"] == {"X-Team": "a", "Authorization": "********"}
    assert created["retry"] == {"delays_seconds": [0.5, 60.0], "window_seconds": 3600.0}
    stored = ENDPOINT.decode(world.records(ENDPOINTS.name)[0].value or b"")
    assert stored.retry is not None
    assert (stored.retry.delays_ms, stored.retry.window_ms) == ((500, 60_000), 3_600_000)
    assert stored.headers["Authorization"] == "Bearer abc"
    assert (stored.timeout_ms, stored.redirects, stored.client_errors) == (5_000, "fail", "retry")


async def test_an_exponential_schedule_is_taken(world: ApiWorld) -> None:
    created = await world.create_endpoint(retry={"base_seconds": 2, "max_seconds": 600})
    assert created["retry"] == {"base_seconds": 2.0, "max_seconds": 600.0, "window_seconds": 259200.0}


async def test_a_publish_is_durable_before_its_202(world: ApiWorld) -> None:
    endpoint = await world.create_endpoint("acme", "order.*")
    await world.create_endpoint("acme", "invoice.*")
    await world.create_endpoint("other", "*")
    answer = await world.publish(occurred_at="2026-01-31T12:00:00.5+01:00")
    assert answer.status == 202
    accepted = answer.json
    assert set(accepted) == {"id", "type", "accepted_at", "matched_endpoints"}
    assert accepted["matched_endpoints"] == 1
    assert re.fullmatch(r"evt_[0-7][0-9a-hjkmnp-tv-z]{25}", accepted["id"])
    assert answer.headers["Location"] == f"{EVENTS_PATH}/{accepted['id']}"

    record = world.records(EVENTS.name)[0]
    (event,) = world.events()
    assert (event.id, event.tenant_id, event.type) == (accepted["id"], "acme", "order.created")
    assert event.occurred_at_ms == 1_769_857_200_500
    assert bytes(event.data) == b'{"n":1}'
    assert record.key == b"acme"
    reader = world.log.reader({TopicPartition(EVENTS.name, partition_of("acme", 2)): 0})
    assert len(reader.poll(TopicPartition(EVENTS.name, partition_of("acme", 2)), 10)) == 1
    assert endpoint["id"]


async def test_ids_of_keyless_events_sort_by_time(world: ApiWorld) -> None:
    first = (await world.publish()).json["id"]
    await asyncio.sleep(0.002)  # two milliseconds are two ids; nothing is waited for
    assert first < (await world.publish()).json["id"]


async def test_a_key_names_one_event(world: ApiWorld) -> None:
    first = await world.publish(key="order-1")
    again = await world.publish(key='"order-1"')
    assert first.json["id"] == event_id_from_key("acme", "order-1")
    assert (again.status, again.json) == (202, first.json)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert [event.idempotency_key for event in world.events()] == ["order-1"]
    other = await world.publish(key="order-1", tenant_id="other")
    assert other.json["id"] != first.json["id"]


async def test_another_body_under_the_key_is_refused(world: ApiWorld) -> None:
    first = await world.publish(key="k")
    for change in ({"data": {"n": 2}}, {"type": "order.paid"}, {"occurred_at": "2026-01-31T12:00:00Z"}):
        other = await world.publish(key="k", **change)
        assert (other.status, other.code) == (422, "idempotency_mismatch")
    spaced = b'{ "data":{"n":1}, "type":"order.created", "tenant_id":"acme" }'
    again = await world.ask("POST", EVENTS_PATH, body=spaced, key="k")
    assert again.json == first.json
    assert len(world.events()) == 1


async def test_fifty_publishes_at_once_under_one_key_are_one_event(world: ApiWorld) -> None:
    answers = await asyncio.gather(*[world.publish(key="k") for _ in range(50)])
    assert {answer.status for answer in answers} == {202}
    assert len({answer.body for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert len(world.events()) == 1


async def test_a_key_is_remembered_across_a_restart(
    tmp_path: Path, delivery_log: ChdbLog, store: IdempotencyStore
) -> None:
    answers = []
    for _ in range(2):
        log = open_log(tmp_path / "log")
        async with ApiWorld(log, delivery_log, store).running() as world:
            answers.append(await world.publish(key="k"))
            assert len(world.events()) == 1
        log.close()
    assert answers[0].body == answers[1].body
    assert answers[1].headers["Idempotent-Replayed"] == "true"


async def test_named_endpoints_get_the_event_whatever_they_subscribed_to(world: ApiWorld) -> None:
    endpoint = await world.create_endpoint("acme", "invoice.*")
    await world.create_endpoint("acme", "*")
    answer = await world.publish(endpoint_ids=[endpoint["id"]])
    assert answer.json["matched_endpoints"] == 1
    listed = await world.ask("GET", answer.headers["Location"] + "/deliveries")
    assert [row["endpoint_id"] for row in listed.json["data"]] == [endpoint["id"]]


async def test_an_accepted_event_can_be_read_before_and_after_the_delivery_log_has_it(
    recording: ApiWorld,
) -> None:
    await recording.create_endpoint("acme", "*")
    published = await recording.publish(data={"a": [1, 2.50, "\u00e9"]}, key="k 1".replace(" ", "-"))
    path = published.headers["Location"]
    before = await recording.ask("GET", path)
    assert before.status == 200
    assert before.json["data"] == {"a": [1, 2.50, "\u00e9"]}
    assert before.json["accepted_at"] == before.json["occurred_at"] == published.json["accepted_at"]
    recording.record()
    after = await recording.ask("GET", path)
    volatile = {"as_of", "log_delayed_seconds"}
    assert set(before.json) - set(after.json) == set()
    assert {k: v for k, v in after.json.items() if k not in volatile} == {
        k: v for k, v in before.json.items() if k not in volatile
    }


async def test_deliveries_are_pending_until_the_delivery_log_knows_better(world: ApiWorld) -> None:
    endpoints = [await world.create_endpoint("acme", "*") for _ in range(3)]
    published = await world.publish()
    event_id = published.json["id"]
    path = published.headers["Location"] + "/deliveries"
    listed = await world.ask("GET", path)
    expected = {delivery_id(event_id, one["id"]): one["id"] for one in endpoints}
    assert {row["id"]: row["endpoint_id"] for row in listed.json["data"]} == expected
    assert {row["state"] for row in listed.json["data"]} == {"pending"}
    one = await world.ask("GET", f"{DELIVERIES_PATH}/{listed.json['data'][0]['id']}")
    assert (one.status, one.json["state"], one.json["attempts"]) == (200, "pending", [])


async def test_what_was_not_fanned_out_before_its_endpoint_was_deleted_reads_as_cancelled(
    world: ApiWorld,
) -> None:
    endpoint = await world.create_endpoint("acme", "*")
    path = (await world.publish()).headers["Location"] + "/deliveries"
    assert [row["state"] for row in (await world.ask("GET", path)).json["data"]] == ["pending"]
    assert (await world.ask("DELETE", f"/api/v1/webhooks/endpoints/{endpoint['id']}")).status == 204
    (shown,) = (await world.ask("GET", path)).json["data"]
    assert (shown["state"], shown["reason"]) == ("cancelled", "endpoint_deleted")
    again = await world.ask("GET", f"/api/v1/deliveries/{shown['id']}")
    assert again.json["state"] == "cancelled"


async def test_a_delivery_is_shown_with_its_attempts(recording: ApiWorld) -> None:
    endpoint = await recording.create_endpoint("acme", "*")
    published = await recording.publish()
    delivery = await fanned_out(recording, published.json["id"], endpoint["id"])
    started_at_ms = now_ms() - 1_000  # not a fixed date: rows older than 90 days are dropped at once
    attempt = Attempt(
        number=1,
        started_at_ms=started_at_ms,
        finished_at_ms=started_at_ms + 250,
        url="https://example.com/hook",
        status=503,
        error_code=ErrorCode.NONE,
        error_detail="",
        headers=(("retry-after", "60"), ("content-type", "text/plain")),
        body=b"sorry \xff",
        is_body_truncated=False,
        queued_us=1_000,
        connect_us=2_000,
        first_byte_us=240_000,
        total_us=250_000,
        peer="203.0.113.5:443",
        is_reused_connection=False,
        requests_sent=2,
        after_crash=False,
        hops=(Hop("https://example.com/hook", 307, "/new"),),
    )
    key = TransitionKey(
        delivery_id=delivery.id,
        stamp=RowStamp(1, 1),
        endpoint_id=endpoint["id"],
        lane=Lane.FRESH,
        offset=0,
        state=DeliveryState.RETRYING,
        attempt_count=1,
        schedule_step=1,
        next_attempt_at_ms=started_at_ms + 300_250,
        digest=delivery.digest,
        recorded_at_ms=delivery.recorded_at_ms,
    )
    failed = Transition(
        delivery.event_id, "acme", "order.created", "", Reason.FAILED, attempt.finished_at_ms, attempt
    )
    shard = partition_of(endpoint["id"], 2)
    recording.append(TRANSITIONS.name, shard, TRANSITION_KEY.encode(key), TRANSITION.encode(failed))
    recording.record()

    shown = await recording.ask("GET", f"{DELIVERIES_PATH}/{delivery.id}")
    assert shown.status == 200
    body = shown.json
    assert (body["state"], body["reason"], body["attempt_count"]) == ("retrying", "attempt_failed", 1)
    assert body["next_attempt_at"] == rfc3339(started_at_ms + 300_250)
    assert (body["event_id"], body["endpoint_id"]) == (published.json["id"], endpoint["id"])
    (tried,) = body["attempts"]
    assert tried["id"] == f"{delivery.id}.1"
    assert (tried["status"], tried["error_code"], tried["requests_sent"]) == (503, None, 2)
    assert tried["started_at"] == rfc3339(started_at_ms)
    assert tried["headers"] == [["retry-after", "60"], ["content-type", "text/plain"]]
    assert (tried["body_encoding"], base64.b64decode(tried["body"])) == ("base64", b"sorry \xff")
    assert tried["hops"] == [{"url": "https://example.com/hook", "status": 307, "location": "/new"}]
    assert (await recording.ask("GET", f"{DELIVERIES_PATH}/{delivery.id}?tenant_id=other")).status == 404

    listed = await recording.ask("GET", published.headers["Location"] + "/deliveries")
    assert [row["state"] for row in listed.json["data"]] == ["retrying"]


async def test_pages_show_every_delivery_once_whether_logged_or_not(recording: ApiWorld) -> None:
    endpoints = [(await recording.create_endpoint("acme", "*"))["id"] for _ in range(7)]
    published = await recording.publish()
    for endpoint_id in endpoints[:3]:
        await fanned_out(recording, published.json["id"], endpoint_id)
    recording.record()
    path = published.headers["Location"] + "/deliveries?limit=2"
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await recording.ask("GET", path + (f"&cursor={cursor}" if cursor else ""))).json
        seen += [row["id"] for row in page["data"]]
        assert len(page["data"]) <= 2
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
    assert seen == sorted(delivery_id(published.json["id"], one) for one in endpoints)
    other = await recording.publish()
    foreign = await recording.ask("GET", f"{other.headers['Location']}/deliveries?cursor={cursor}")
    assert (foreign.status, foreign.code) == (400, "bad_parameter")


async def test_an_event_that_matched_nobody_has_an_empty_list_and_an_unknown_one_none(
    recording: ApiWorld,
) -> None:
    published = await recording.publish()
    for _ in range(2):
        listed = await recording.ask("GET", published.headers["Location"] + "/deliveries")
        assert (listed.status, listed.json["data"], listed.json["next_cursor"]) == (200, [], None)
        recording.record()
    for path in (f"{EVENTS_PATH}/evt_x", f"{EVENTS_PATH}/evt_x/deliveries", f"{DELIVERIES_PATH}/dlv_x"):
        unknown = await recording.ask("GET", path)
        assert (unknown.status, unknown.code) == (404, "not_found")


async def test_another_tenants_event_is_404(recording: ApiWorld) -> None:
    published = await recording.publish()
    for _ in range(2):
        for more in ("", "/deliveries"):
            path = published.headers["Location"] + more
            assert (await recording.ask("GET", path + "?tenant_id=acme")).status == 200
            assert (await recording.ask("GET", path + "?tenant_id=other")).code == "not_found"
        recording.record()


async def test_reads_say_how_far_the_delivery_log_is_behind(recording: ApiWorld) -> None:
    old = (await recording.publish()).json
    await asyncio.sleep(0.3)  # lets the delay grow beyond the quarter of a second that progress is kept
    late = (await recording.ask("GET", f"{EVENTS_PATH}/{old['id']}")).json
    assert late["as_of"] == old["accepted_at"]
    assert 0.2 < late["log_delayed_seconds"] < 30
    recording.record()
    await asyncio.sleep(0.3)
    fresh = (await recording.ask("GET", f"{EVENTS_PATH}/{old['id']}")).json
    assert fresh["log_delayed_seconds"] == 0
    assert fresh["as_of"] > late["as_of"]


async def test_without_a_delivery_log_recent_events_are_shown_and_others_are_503(
    tmp_path: Path, store: IdempotencyStore
) -> None:
    log = open_log(tmp_path / "log")
    async with ApiWorld(log, Unanswering(), store).running() as world:
        await world.create_endpoint("acme", "*")
        published = await world.publish()
        assert (await world.ask("GET", published.headers["Location"])).json["data"] == {"n": 1}
        listed = (await world.ask("GET", published.headers["Location"] + "/deliveries")).json["data"]
        assert (await world.ask("GET", f"{DELIVERIES_PATH}/{listed[0]['id']}")).json["state"] == "pending"
        unknown = await world.ask("GET", f"{EVENTS_PATH}/evt_x")
        assert (unknown.status, unknown.code, unknown.headers["Retry-After"]) == (503, "not_ready", "1")
    log.close()


@pytest.mark.parametrize("key", [None, "mine"])
async def test_a_silent_log_is_503_with_the_key_that_publishes_the_same_event(
    tmp_path: Path, delivery_log: ChdbLog, store: IdempotencyStore, key: str | None
) -> None:
    log = open_log(tmp_path / "log")
    silent = SilentLog(log)
    settings = make_settings(append_timeout_ms=100)
    async with ApiWorld(silent, delivery_log, store, settings).running() as world:
        silent.is_silent = True
        unsure = await world.publish(key=key)
        assert (unsure.status, unsure.code, unsure.headers["Retry-After"]) == (503, "log_unavailable", "1")
        silent.is_silent = False
        problem = unsure.json
        again = await world.publish(key=problem["idempotency_key"])
        assert (again.status, again.json["id"]) == (202, problem["event_id"])
        assert "Idempotent-Replayed" not in again.headers, "the first one was never answered"
        # It was durable all the time; both records carry one id, so it is one event to everybody downstream.
        assert [event.id for event in world.events()] == [problem["event_id"]] * 2
        metrics = (await world.ask("GET", "/metrics")).body.decode()
        assert 'webhook_events_ingested_total{outcome="unsure"} 1.0' in metrics
    log.close()


async def test_a_silent_log_is_503_for_a_new_endpoint_too(tmp_path: Path, delivery_log: ChdbLog) -> None:
    log = open_log(tmp_path / "log")
    silent = SilentLog(log)
    settings = make_settings(append_timeout_ms=100)
    async with ApiWorld(silent, delivery_log, unused_store(), settings).running() as world:
        silent.is_silent = True
        body = {"tenant_id": "acme", "url": "https://example.com/", "event_types": ["*"]}
        answer = await world.ask("POST", ENDPOINTS_PATH, json=body | {"verification": "skip"})
        assert (answer.status, answer.code) == (503, "log_unavailable")
        assert (await world.ask("GET", f"{ENDPOINTS_PATH}/{answer.json['endpoint_id']}")).status == 200
    log.close()


async def test_an_event_key_of_another_kind_is_no_retry_key(world: ApiWorld) -> None:
    first = (await world.publish()).json["id"]
    follow_up = (await world.publish(key=first)).json["id"]
    assert follow_up == event_id_from_key("acme", first) != first


async def test_probes_are_open_and_say_words_only(world: ApiWorld) -> None:
    live = await world.ask("GET", "/livez", is_authorized=False)
    ready = await world.ask("GET", "/readyz", is_authorized=False)
    assert (live.status, live.body) == (200, b"ok\n")
    assert (ready.status, ready.body) == (200, b"ready\n")
    world.readiness = lambda: ["clock_unsynchronised", "log_behind"]
    ready = await world.ask("GET", "/readyz", is_authorized=False)
    assert (ready.status, ready.body) == (503, b"clock_unsynchronised\nlog_behind\n")
    assert (await world.ask("GET", "/livez", is_authorized=False)).status == 200


async def test_metrics_have_closed_labels(world: ApiWorld) -> None:
    await world.publish(key="k")
    await world.publish(key="k")
    await world.ask("GET", f"{EVENTS_PATH}/evt_secret-customer-name")
    await world.ask("GET", "/no/such/path-of-somebody")
    await world.ask("PROPFIND", "/no/such/path-of-somebody")
    text = (await world.ask("GET", "/metrics")).body.decode()
    assert 'webhook_events_ingested_total{outcome="accepted"} 1.0' in text
    assert 'webhook_events_ingested_total{outcome="replayed"} 1.0' in text
    assert 'route="/api/v1/events/{event_id}",status="404"' in text
    assert 'method="other",route="unknown",status="404"' in text
    assert "somebody" not in text
    assert "customer" not in text
    assert "PROPFIND" not in text


async def test_our_own_mistake_is_500_and_says_nothing_but_its_number(
    world: ApiWorld, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> list[str]:
        raise ZeroDivisionError("an inner secret")

    world.readiness = fail
    answer = await world.ask("GET", "/readyz")
    assert (answer.status, answer.code) == (500, "internal")
    assert b"secret" not in answer.body
    logged = capsys.readouterr().out + caplog.text
    assert answer.json["request_id"] in logged
    assert "ZeroDivisionError" in logged
    assert ADMIN_KEY not in logged


JSON_TEXTS = st.recursive(
    st.sampled_from(
        ["null", "true", "0", "-0.0", "1E+2", "12345678901234567890123", '"\\u00e9\\n"', '"\u00e9"']
    )
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8).map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda rows: "[ " + " ,\n".join(rows) + "]")
        | st.lists(inner, max_size=3).map(
            lambda rows: "{" + ",".join(f'\t"k{n}" : {row}' for n, row in enumerate(rows)) + " }"
        )
    ),
    max_leaves=10,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=JSON_TEXTS)
def test_the_bytes_of_data_reach_the_record_untouched(text: str, publishes: PublishEvents) -> None:
    body = b'{ "type":"a", "data" :  %b , "tenant_id":"acme"}' % text.encode()
    event = publishes.event_of(ADMIN, None, body)
    assert bytes(event.data) == text.encode()
    assert bytes(decode_event(encode_event(event)).data) == text.encode()


@pytest.mark.parametrize("text", ['{"b":1,"a":[1.50,1E5,"\\u00e9\u00e9"]}', ' "x" ', "[ ]", "null", "-0"])
async def test_the_bytes_of_data_come_back_untouched(recording: ApiWorld, text: str) -> None:
    body = b'{"tenant_id":"acme","type":"a","data":%b}' % text.encode()
    published = await recording.ask("POST", EVENTS_PATH, body=body)
    for _ in range(2):
        read = await recording.ask("GET", published.headers["Location"])
        assert b'"data":' + text.strip().encode() in read.body
        recording.record()


async def test_an_endpoint_created_is_matched_by_the_very_next_publish(world: ApiWorld) -> None:
    for number in range(1, 51):
        await world.create_endpoint("acme", "order.*")
        assert (await world.publish()).json["matched_endpoints"] == number


async def test_a_client_that_goes_away_does_not_unpublish(world: ApiWorld) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    body = b'{"tenant_id":"acme","type":"a","data":1}'
    head = f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    writer.transport.abort()
    async with asyncio.timeout(5):
        while not world.events():  # noqa: ASYNC110 - the log tells nobody when a record becomes visible
            await asyncio.sleep(0.005)
    assert reader is not None
