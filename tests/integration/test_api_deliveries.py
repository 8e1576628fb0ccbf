"""Deliveries through the API: lists of them, and what a person may ask of one."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from msgspec.structs import replace

from api.actions.resend_delivery import replay_id_of
from dataflows.connectors.delivery_log.chdb import ChdbLog
from dataflows.connectors.delivery_log.listing import HOUR_MS
from dataflows.connectors.idempotency_store import IdempotencyStore
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Log
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from operators.body_format import render
from operators.signing import decode_secret
from schemas.command import Command, CommandKind
from schemas.delivery import Delivery
from schemas.endpoint import EndpointStatus
from schemas.ids import content_digest, delivery_id
from schemas.outcome import ErrorCode
from schemas.topics import DELIVERIES, ENDPOINTS
from schemas.wire.records import ENDPOINT, decode_work
from tests.conformance.delivery_log_contract import put
from tests.integration.api_world import (
    DELIVERIES_PATH,
    EVENTS_PATH,
    Answer,
    ApiWorld,
    now_ms,
    open_log,
)
from tests.integration.hooktide_process import HooktideProcess

DATA = b'{"n":1.50, "s":"\xc3\xa9"}'
EVENT_ID = "evt_1"
OCCURRED_MS = 1_700_000_000_123
_databases = count()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("chdb")
    keeper = ChdbLog(path, "keeper")
    yield path
    keeper.close()


@pytest.fixture
def delivery_log(directory: Path) -> Iterator[ChdbLog]:
    log = ChdbLog(directory, f"test_{next(_databases)}")
    log.migrate()
    yield log
    log.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LocalLog]:
    opened = open_log(tmp_path / "log")
    yield opened
    opened.close()


@pytest.fixture
async def world(tmp_path: Path, log: Log, delivery_log: ChdbLog) -> AsyncIterator[ApiWorld]:
    store = IdempotencyStore(tmp_path / "idempotency")
    async with ApiWorld(log, delivery_log, store).running() as running:
        yield running
    store.close()


class Story:
    """Writes what `record` would have written of one delivery."""

    def __init__(self, world: ApiWorld, endpoint_id: str, tenant_id: str = "acme") -> None:
        self.log = world.delivery_log
        self.id = delivery_id(EVENT_ID, endpoint_id)
        self.of: dict[str, Any] = {
            "tenant_id": tenant_id,
            "delivery_id": self.id,
            "event_id": EVENT_ID,
            "endpoint_id": endpoint_id,
        }
        # A shard that this log does not have: `record` must not take its first record for this one.
        put(self.log, "deliveries", self.of | {"created_at": now_ms() - 60_000, "partition": 99})

    def became(self, state: str, attempt_count: int = 1) -> "Story":
        change = {"state": state, "attempt_count": attempt_count, "at": now_ms(), "sequence": attempt_count}
        put(self.log, "transitions", self.of | change)
        attempt = {"number": attempt_count, "status": None, "error_code": ErrorCode.CONNECT_REFUSED.value}
        put(self.log, "attempts", self.of | attempt)
        return self

    def with_event(self) -> "Story":
        event = {"event_id": EVENT_ID, "data": DATA, "occurred_at": OCCURRED_MS, "partition": 1, "offset": 7}
        put(self.log, "events", event | {"tenant_id": self.of["tenant_id"]})
        return self


async def story(world: ApiWorld) -> Story:
    endpoint = await world.create_endpoint()
    return Story(world, endpoint["id"]).with_event()


async def ask(world: ApiWorld, of: str, action: str, body: object = None, key: str | None = None) -> Answer:
    return await world.ask("POST", f"{DELIVERIES_PATH}/{of}/{action}", json=body, key=key)


def work(world: ApiWorld) -> list[Delivery | Command]:
    return [decode_work(record.value or b"") for record in world.records(DELIVERIES.name)]


async def every_page(world: ApiWorld, path: str, **query: str) -> list[Any]:
    rows: list[Any] = []
    for _ in range(100):
        answer = await world.ask("GET", f"{path}?{urlencode(query)}")
        assert answer.status == 200, answer.body
        rows += answer.json["data"]
        if answer.json["next_cursor"] is None:
            return rows
        query["cursor"] = answer.json["next_cursor"]
    raise AssertionError("the pages have no end")


# Lists


def seed(log: ChdbLog) -> list[dict[str, Any]]:
    """Writes 60 deliveries over fifty days, several a millisecond, some fanned out twice; newest first."""
    now = now_ms() - 1_000
    states = ("delivered", "dead_lettered", "retrying", "cancelled", None)
    rows = []
    for number in range(60):
        age_ms = (number // 3) ** 4 * 33_000
        rows.append(
            {
                "tenant_id": ("acme", "other")[number % 2],
                "delivery_id": f"dlv_{number * 7 % 60:02}",
                "event_id": f"evt_{number // 2}",
                "endpoint_id": f"ep_{number % 3}",
                "event_type": f"order.t{number % 4}",
                "created_at": now - age_ms,
                "state": states[number % 5],
            }
        )
    records = [{name: value for name, value in row.items() if name != "state"} for row in rows]
    put(log, "deliveries", *records)
    for sequence in (1, 2):
        changes = [
            {
                name: row[name]
                for name in ("tenant_id", "delivery_id", "event_id", "endpoint_id", "event_type")
            }
            | {"state": "retrying" if sequence == 1 else row["state"], "at": now, "sequence": sequence}
            for row in rows
            if row["state"] is not None
        ]
        put(log, "transitions", *changes)
    again = [record | {"created_at": now + 500, "offset": 9} for record in records[::7]]
    put(log, "deliveries", *again)  # fanned out again, later: the first record counts
    return sorted(rows, key=lambda row: (row["created_at"], row["delivery_id"]), reverse=True)


async def test_lists_are_newest_first_and_every_filter_and_page_size_agrees(
    world: ApiWorld, delivery_log: ChdbLog
) -> None:
    rows = seed(delivery_log)
    filters: list[dict[str, str]] = [
        {},
        {"tenant_id": "acme"},
        {"endpoint_id": "ep_1"},
        {"event_id": "evt_3"},
        {"event_type": "order.t2"},
        {"tenant_id": "other", "state": "dead_lettered"},
        {"state": "pending"},
        {"state": "retrying"},
        {"state": "delivered"},
        {"tenant_id": "acme", "state": "pending"},
        {"state": "cancelled", "endpoint_id": "ep_2"},
        {"event_type": "order.none"},
    ]
    for wanted in filters:
        expected = [
            row["delivery_id"]
            for row in rows
            if all((row[name] or "pending") == value for name, value in wanted.items())
        ]
        for limit in ("9",) if wanted else ("3", "7", "200"):
            shown = await every_page(world, DELIVERIES_PATH, limit=limit, **wanted)
            assert [row["id"] for row in shown] == expected, (wanted, limit)


async def test_since_and_until_are_the_half_open_time_of_the_fan_out(
    world: ApiWorld, delivery_log: ChdbLog
) -> None:
    rows = seed(delivery_log)
    times = sorted({row["created_at"] for row in rows})
    since_ms, until_ms = times[4], times[11]
    shown = await every_page(world, DELIVERIES_PATH, since=iso(since_ms), until=iso(until_ms), limit="5")
    expected = [row["delivery_id"] for row in rows if since_ms <= row["created_at"] < until_ms]
    assert [row["id"] for row in shown] == expected
    assert await every_page(world, DELIVERIES_PATH, since=iso(until_ms), until=iso(since_ms)) == []
    assert await every_page(world, DELIVERIES_PATH, since="2199-01-01T00:00:00Z") == []
    assert await every_page(world, DELIVERIES_PATH, until="1970-01-01T00:00:00Z") == []


async def test_nothing_is_lost_where_two_windows_of_time_meet(world: ApiWorld, delivery_log: ChdbLog) -> None:
    now = now_ms()
    ages_ms = (0, HOUR_MS - 2, HOUR_MS - 1, HOUR_MS, HOUR_MS + 1, 9 * HOUR_MS - 1, 9 * HOUR_MS, 80 * HOUR_MS)
    for number, age_ms in enumerate(ages_ms):
        put(delivery_log, "deliveries", {"delivery_id": f"dlv_{number}", "created_at": now - age_ms})
    shown = await every_page(world, DELIVERIES_PATH)
    assert [row["id"] for row in shown] == [f"dlv_{number}" for number in range(len(ages_ms))]


async def test_a_page_ends_early_rather_than_walk_for_ever(world: ApiWorld, delivery_log: ChdbLog) -> None:
    """An old state that all have left: everything is looked at, over several pages, and nothing is shown."""
    now = now_ms()
    of = [{"delivery_id": f"dlv_{number:03}", "tenant_id": "acme"} for number in range(45)]
    put(delivery_log, "deliveries", *[one | {"created_at": now - n} for n, one in enumerate(of)])
    for sequence, state in ((1, "retrying"), (2, "delivered")):
        changes = [one | {"state": state, "at": now, "sequence": sequence} for one in of]
        put(delivery_log, "transitions", *changes)
    first = await world.ask("GET", f"{DELIVERIES_PATH}?state=retrying&limit=1")
    assert first.json["data"] == []
    assert first.json["next_cursor"] is not None
    assert await every_page(world, DELIVERIES_PATH, state="retrying", limit="1") == []


async def test_a_listed_delivery_says_what_its_last_attempt_came_to(world: ApiWorld) -> None:
    (await story(world)).became("retrying", 1).became("retrying", 2)
    answer = await world.ask("GET", DELIVERIES_PATH)
    (row,) = answer.json["data"]
    assert (row["state"], row["attempt_count"]) == ("retrying", 2)
    assert (row["last_status"], row["last_error_code"]) == (None, ErrorCode.CONNECT_REFUSED.value)
    assert row["next_attempt_at"] is not None
    assert answer.json["log_delayed_seconds"] >= 0
    assert "as_of" in answer.json


async def test_events_are_listed_newest_first_without_their_data(
    world: ApiWorld, delivery_log: ChdbLog
) -> None:
    now = now_ms() - 1_000
    rows = [
        {
            "tenant_id": ("acme", "other")[number % 2],
            "event_id": f"evt_{number * 3 % 20:02}",
            "type": f"order.t{number % 3}",
            "recorded_at": now - (number // 2) ** 4 * 200_000,
        }
        for number in range(20)
    ]
    put(delivery_log, "events", *rows)
    put(delivery_log, "events", rows[5] | {"recorded_at": now + 5, "offset": 1})
    rows.sort(key=lambda row: (row["recorded_at"], row["event_id"]), reverse=True)
    for wanted in ({}, {"tenant_id": "acme"}, {"type": "order.t1"}):
        shown = await every_page(world, EVENTS_PATH, limit="3", **wanted)
        expected = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
        assert [row["id"] for row in shown] == [row["event_id"] for row in expected]
        assert all("data" not in row for row in shown)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (DELIVERIES_PATH, "state=held"),
        (DELIVERIES_PATH, "state=lost"),
        (DELIVERIES_PATH, "since=yesterday"),
        (DELIVERIES_PATH, "until=2026-01-31"),
        (DELIVERIES_PATH, "endpoint_id=%00"),
        (DELIVERIES_PATH, "event_id="),
        (DELIVERIES_PATH, "event_type=" + "x" * 161),
        (DELIVERIES_PATH, "tenant_id=%ff"),
        (DELIVERIES_PATH, "limit=0"),
        (DELIVERIES_PATH, "cursor=AAAA"),
        (EVENTS_PATH, "type=%27"),
        (EVENTS_PATH, "since=1e9"),
    ],
)
async def test_a_parameter_out_of_its_grammar_is_refused(world: ApiWorld, path: str, query: str) -> None:
    answer = await world.ask("GET", f"{path}?{query}")
    assert (answer.status, answer.code) == (400, "bad_parameter")


async def test_a_cursor_is_good_for_its_own_filter_only(world: ApiWorld, delivery_log: ChdbLog) -> None:
    seed(delivery_log)
    cursor = (await world.ask("GET", f"{DELIVERIES_PATH}?limit=1")).json["next_cursor"]
    for other in ("&tenant_id=acme", "&state=delivered", "&since=2020-01-01T00:00:00Z"):
        answer = await world.ask("GET", f"{DELIVERIES_PATH}?limit=1&cursor={cursor}{other}")
        assert answer.code == "bad_parameter", other
    assert (await world.ask("GET", f"{EVENTS_PATH}?cursor={cursor}")).code == "bad_parameter"


# Retry now and cancel


async def test_retry_of_a_waiting_delivery_is_a_command_with_the_attempts_that_were_seen(
    world: ApiWorld,
) -> None:
    told = (await story(world)).became("retrying", 2)
    answers = [await ask(world, told.id, "retry"), await ask(world, told.id, "retry", {"attempt_count": 2})]
    assert [answer.status for answer in answers] == [202, 202]
    assert answers[0].json == {"id": told.id, "action": "retry_now", "resend_of": None}
    assert answers[0].headers["Location"] == f"{DELIVERIES_PATH}/{told.id}"
    wanted = Command(CommandKind.RETRY_NOW, told.id, told.of["endpoint_id"], "admin", 2)
    assert work(world) == [wanted, wanted]


async def test_retry_with_another_number_of_attempts_does_nothing(world: ApiWorld) -> None:
    told = (await story(world)).became("retrying", 2)
    answer = await ask(world, told.id, "retry", {"attempt_count": 1})
    assert (answer.status, answer.code) == (409, "wrong_state")
    assert "2 attempts, not 1" in answer.json["detail"]
    assert work(world) == []


async def test_a_first_attempt_cannot_be_hastened(world: ApiWorld) -> None:
    told = await story(world)
    assert (await ask(world, told.id, "retry")).code == "wrong_state"
    assert work(world) == []


@pytest.mark.parametrize("state", ["pending", "retrying"])
async def test_cancel_of_a_waiting_delivery_is_a_command(world: ApiWorld, state: str) -> None:
    told = await story(world)
    if state != "pending":
        told.became(state)
    answer = await ask(world, told.id, "cancel")
    assert (answer.status, answer.json["action"]) == (202, "cancel")
    assert work(world) == [Command(CommandKind.CANCEL, told.id, told.of["endpoint_id"], "admin")]


@pytest.mark.parametrize("state", ["delivered", "dead_lettered", "cancelled"])
async def test_what_has_ended_cannot_be_cancelled(world: ApiWorld, state: str) -> None:
    told = (await story(world)).became(state)
    answer = await ask(world, told.id, "cancel")
    assert (answer.status, answer.code) == (409, "wrong_state")
    assert work(world) == []


async def test_unknown_foreign_and_malformed_ids_are_404(world: ApiWorld) -> None:
    told = (await story(world)).became("retrying")
    for action in ("retry", "cancel"):
        for path in ("dlv_none", f"{told.id}x", "%00"):
            assert (await ask(world, path, action)).status == 404
        foreign = await world.ask("POST", f"{DELIVERIES_PATH}/{told.id}/{action}?tenant_id=other")
        assert foreign.status == 404
    assert work(world) == []


@pytest.mark.parametrize(
    "body", [{"attempt_count": -1}, {"attempt_count": "1"}, {"attempt_count": 1 << 32}, {"more": 1}]
)
async def test_a_wrong_body_of_an_action_is_refused(world: ApiWorld, body: object) -> None:
    told = (await story(world)).became("retrying")
    assert (await ask(world, told.id, "retry", body)).code == "invalid_fields"
    assert (await ask(world, told.id, "cancel", body)).code == "invalid_fields"


async def test_a_command_waits_until_its_delivery_stands_in_the_shards_log(world: ApiWorld) -> None:
    """A command that overtook its delivery would find nothing there and be lost."""
    await world.create_endpoint()
    event = (await world.publish()).json
    (expected,) = (await world.ask("GET", f"{EVENTS_PATH}/{event['id']}/deliveries")).json["data"]
    answer = await ask(world, expected["id"], "cancel")
    assert (answer.status, answer.code) == (503, "not_ready")
    assert work(world) == []


# Resend


async def test_a_resend_is_a_new_delivery_with_the_same_event_and_bytes(world: ApiWorld) -> None:
    told = (await story(world)).became("dead_lettered", 3)
    before_ms = now_ms()
    answer = await ask(world, told.id, "retry", {"attempt_count": 3}, key="once")
    assert answer.status == 202
    (sent,) = work(world)
    assert isinstance(sent, Delivery)
    replay_id = replay_id_of("acme", "once", told.id)
    endpoint_id = told.of["endpoint_id"]
    assert answer.json == {"id": sent.id, "action": "resend", "resend_of": told.id}
    assert sent.id == delivery_id(EVENT_ID, endpoint_id, replay_id) != told.id
    assert (sent.event_id, sent.endpoint_id, sent.replay_id) == (EVENT_ID, endpoint_id, replay_id)
    assert sent.body == render(EVENT_ID, "order.created", OCCURRED_MS, "1", DATA)
    assert sent.digest == content_digest("order.created", DATA)
    assert before_ms <= sent.recorded_at_ms <= now_ms(), "else a shard would refuse it as too old"
    assert (sent.event_position.partition, sent.event_position.offset) == (1, 7)
    assert sent.matched_at == len(world.records(ENDPOINTS.name))

    shown = await world.ask("GET", answer.headers["Location"])
    assert (shown.status, shown.json["state"], shown.json["replay_id"]) == (200, "pending", replay_id)
    world.record([DELIVERIES.name])
    recorded = await world.ask("GET", f"{DELIVERIES_PATH}?event_id={EVENT_ID}")
    assert {row["id"] for row in recorded.json["data"]} == {told.id, sent.id}


async def test_a_resend_with_one_key_is_one_delivery_however_often_it_is_asked_for(
    world: ApiWorld, tmp_path: Path, log: Log, delivery_log: ChdbLog
) -> None:
    told = (await story(world)).became("delivered")
    first = await ask(world, told.id, "retry", key="once")
    again = await ask(world, told.id, "retry", key="once")
    assert first.json == again.json
    assert first.headers["Location"] == again.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(work(world)) == 1
    assert (await ask(world, told.id, "retry", {"attempt_count": 1}, key="once")).code == (
        "idempotency_mismatch"
    )

    world.record([DELIVERIES.name])
    forgetful = IdempotencyStore(tmp_path / "other")
    async with ApiWorld(log, delivery_log, forgetful).running() as other:
        assert (await ask(other, told.id, "retry", key="once")).json == first.json
    forgetful.close()
    assert len(work(world)) == 1
    assert (await ask(world, told.id, "retry", key="twice")).json["id"] != first.json["id"]
    assert (await world.publish(key="once")).status == 202, "a publish's keys are another matter"


async def test_two_resends_without_a_key_are_two_deliveries(world: ApiWorld) -> None:
    told = (await story(world)).became("delivered")
    answers = [await ask(world, told.id, "retry") for _ in range(2)]
    assert len({answer.json["id"] for answer in answers}) == 2
    assert len(work(world)) == 2


async def test_a_resend_to_a_deleted_or_disabled_endpoint_is_refused(world: ApiWorld) -> None:
    endpoint = await world.create_endpoint()
    told = Story(world, endpoint["id"]).with_event().became("dead_lettered")
    record = ENDPOINT.decode(world.records(ENDPOINTS.name)[-1].value or b"")
    disabled = replace(record, status=EndpointStatus.DISABLED, revision=record.revision + 1)
    world.append(ENDPOINTS.name, 0, record.id.encode(), ENDPOINT.encode(disabled))
    answer = await ask(world, told.id, "retry")
    assert (answer.status, answer.code) == (409, "wrong_state")
    assert "enable it first" in answer.json["detail"]

    gone = Story(world, "ep_gone").became("dead_lettered")
    answer = await ask(world, gone.id, "retry")
    assert answer.status == 404
    assert "ep_gone is deleted" in answer.json["detail"]
    assert work(world) == []


async def test_a_resend_of_an_event_that_is_not_kept_is_refused(world: ApiWorld) -> None:
    endpoint = await world.create_endpoint()
    told = Story(world, endpoint["id"]).became("dead_lettered")
    answer = await ask(world, told.id, "retry")
    assert (answer.status, answer.code) == (409, "wrong_state")
    assert "not kept any more" in answer.json["detail"]


# The whole of it

LONG = {"HOOKTIDE__RETRY__DELAYS_MS": str([3_600_000])}
DIE_AT_ONCE = 404


def one_delivery(hooktide: HooktideProcess, event_id: str, state: str) -> Any:  # noqa: ANN401 - JSON
    page = hooktide.get_until(
        f"deliveries?event_id={event_id}&state={state}", lambda page: len(page["data"]) == 1, timeout_s=15
    )
    return page["data"][0]


def test_a_dead_letter_is_sent_again_with_the_same_id_bytes_and_a_valid_signature(
    hooktide: HooktideProcess,
) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(status=DIE_AT_ONCE))
        hooktide.start(env=LONG)
        created = hooktide.create_endpoint(f"{receiver.url}/hook")
        receiver.trust([decode_secret(created["secret"])], "/hook")
        event = hooktide.publish({"n": 1.5, "text": "\u00e9"})
        dead = one_delivery(hooktide, event["id"], "dead_lettered")
        assert (dead["attempt_count"], dead["last_status"]) == (1, DIE_AT_ONCE)

        receiver.behave(Behaviour())
        path = f"deliveries/{dead['id']}/retry"
        answers = [hooktide.api("POST", path, None, {"Idempotency-Key": "mended"}) for _ in range(2)]
        assert [answer.status for answer in answers] == [202, 202]
        assert answers[0].json == answers[1].json
        resent = answers[0].json["id"]
        assert hooktide.api("GET", f"deliveries/{resent}").status == 200
        shown = hooktide.get_until(f"deliveries/{resent}", lambda one: one["state"] == "delivered", 15)
        marker = hooktide.publish({"n": 2})
        one_delivery(hooktide, marker["id"], "delivered")  # what a second resend would have sent is here
        arrivals = [one for one in receiver.arrivals if one.webhook_id == event["id"]]
        assert hooktide.terminate() == 0

    assert [one.status for one in arrivals] == [DIE_AT_ONCE, 200]
    assert [one.verdict for one in arrivals] == ["ok", "ok"]
    assert arrivals[0].body == arrivals[1].body
    assert json.loads(arrivals[1].body)["id"] == event["id"]
    assert (shown["event_id"], len(shown["attempts"])) == (event["id"], 1)


def test_retry_now_sends_a_waiting_delivery_and_cancel_ends_one(hooktide: HooktideProcess) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(fail_first=1))
        hooktide.start(env=LONG)
        hooktide.create_endpoint(f"{receiver.url}/hook")
        events = [hooktide.publish({"n": number})["id"] for number in range(2)]
        hastened, dropped = (one_delivery(hooktide, event, "retrying")["id"] for event in events)

        stale = hooktide.api("POST", f"deliveries/{hastened}/retry", {"attempt_count": 2})
        assert stale.status == 409
        assert hooktide.api("POST", f"deliveries/{hastened}/retry", {"attempt_count": 1}).status == 202
        hooktide.get_until(f"deliveries/{hastened}", lambda one: one["state"] == "delivered", 15)

        assert hooktide.api("POST", f"deliveries/{dropped}/cancel").status == 202
        ended = hooktide.get_until(f"deliveries/{dropped}", lambda one: one["state"] == "cancelled", 15)
        assert (ended["actor"], ended["reason"]) == ("admin", "cancelled_by_person")
        assert hooktide.api("POST", f"deliveries/{dropped}/cancel").status == 409
        listed = hooktide.api("GET", "deliveries?state=cancelled&tenant_id=acme").json
        arrivals = receiver.arrivals

    assert [row["id"] for row in listed["data"]] == [dropped]
    assert sorted(one.webhook_id for one in arrivals) == sorted([events[0], events[0], events[1]])


def test_what_was_just_published_can_be_cancelled_at_once(hooktide: HooktideProcess) -> None:
    """The command waits for the fan-out; it never gets ahead of the delivery it is for."""
    with ReceiverThread() as receiver:
        hooktide.start(env=LONG)
        endpoint = hooktide.create_endpoint(f"{receiver.url}/hook")
        assert hooktide.api("POST", f"webhooks/endpoints/{endpoint['id']}/pause").status == 200
        event = hooktide.publish({"n": 1})
        (held,) = hooktide.api("GET", f"events/{event['id']}/deliveries").json["data"]
        while (answer := hooktide.api("POST", f"deliveries/{held['id']}/cancel")).status == 503:
            assert answer.headers["retry-after"] == "1"  # a slow machine; each try waits for two seconds
        assert answer.status == 202
        hooktide.get_until(f"deliveries/{held['id']}", lambda one: one["state"] == "cancelled", 15)
        assert receiver.arrivals == []


def iso(at_ms: int) -> str:
    seconds, ms = divmod(at_ms, 1_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ms:03d}Z"
