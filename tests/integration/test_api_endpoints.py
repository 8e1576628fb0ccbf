"""Endpoints over the API: changed, listed, paused, rotated, deleted, and how each of that is refused."""

import base64
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from api.actions.endpoint_status import TABLE, UNSETTLED, StatusAction, apply, with_verification
from api.entity_tags import parse_if_match
from api.problems import ProblemError
from dataflows.connectors.key_ring import KeyRing
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Entry, OnAppended, TopicPartition
from operators.signing import decode_secret
from schemas.endpoint import (
    DisabledReport,
    Endpoint,
    EndpointStatus,
    Verification,
    VerificationState,
)
from schemas.problem_codes import STATUS_OF, ProblemCode
from schemas.topics import ENDPOINT_STATUS, ENDPOINTS
from schemas.wire.records import DISABLED_REPORT, ENDPOINT
from tests.integration.api_world import (
    ENDPOINTS_PATH,
    EVENTS_PATH,
    MASTER_KEY,
    Answer,
    ApiWorld,
    make_settings,
    now_ms,
    open_log,
    unread_delivery_log,
    unused_store,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROUNDS = 1_000
BROUGHT = "whsec_" + base64.b64encode(bytes(range(32))).decode()
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
_tenants = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiWorld]:
    log = open_log(tmp_path_factory.mktemp("api") / "log")
    async with ApiWorld(log, unread_delivery_log(), unused_store(), has_reports=True).running() as world:
        yield world
    log.close()


@pytest.fixture
def tenant() -> str:
    """A tenant of the test's own: the world is everybody's."""
    return f"tenant-{next(_tenants)}"


def path_of(endpoint: dict[str, Any]) -> str:
    return f"{ENDPOINTS_PATH}/{endpoint['id']}"


def shown(endpoint: dict[str, Any]) -> dict[str, Any]:
    """Returns an endpoint as reads show it."""
    return {name: value for name, value in endpoint.items() if name != "secret"}


def stored(world: ApiWorld, endpoint_id: str) -> Endpoint:
    """Returns the last record of an endpoint."""
    values = [one.value for one in world.records(ENDPOINTS.name) if one.key == endpoint_id.encode()]
    assert values[-1] is not None
    return ENDPOINT.decode(values[-1])


def assert_refused(answer: Answer, code: str, pointer: str | None = None) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json
    assert (answer.code, answer.status) == (code, STATUS_OF[ProblemCode(code)]), problem
    if pointer is not None:
        assert pointer in [error["pointer"] for error in problem["errors"]], problem
    return problem


async def patched(world: ApiWorld, endpoint: dict[str, Any], patch: object) -> dict[str, Any]:
    answer = await world.ask("PATCH", path_of(endpoint), json=patch, headers=MERGE_PATCH)
    assert answer.status == 200, answer.body
    read = await world.ask("GET", path_of(endpoint))
    assert (read.json, read.headers["ETag"]) == (answer.json, answer.headers["ETag"])
    changed: dict[str, Any] = answer.json
    return changed


# --- changing


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"description": "orders"}, {"description": "orders"}),
        ({"description": None}, {"description": ""}),
        ({"event_types": ["a.*"]}, {"event_types": ["a.*"]}),
        ({"timeout_ms": 500}, {"timeout_ms": 500}),
        ({"timeout_ms": None}, {"timeout_ms": 15_000}),
        (
            {"redirects": None, "client_errors": None},
            {"redirects": "follow_once", "client_errors": "dead_letter"},
        ),
        (
            {"headers": {"X-New": "n"}},
            {"headers": {"Authorization": "********", "X-Team": "a", "X-New": "n"}},
        ),
        ({"headers": {"X-Team": None}}, {"headers": {"Authorization": "********"}}),
        ({"headers": {"x-team": "b"}}, {"headers": {"Authorization": "********", "X-Team": "b"}}),
        ({"headers": {"authorization": None}}, {"headers": {"X-Team": "a"}}),
        ({"headers": None}, {"headers": {}}),
        (
            {"retry": {"window_seconds": 60}},
            {"retry": {"delays_seconds": [1.0, 2.0], "window_seconds": 60.0}},
        ),
        (
            {"retry": {"delays_seconds": None, "base_seconds": 2}},
            {"retry": {"base_seconds": 2.0, "max_seconds": 43200.0, "window_seconds": 3600.0}},
        ),
        ({"retry": None}, {"retry": None}),
        ({"api_version": None, "verification": None}, {}),
        ({}, {}),
    ],
    ids=str,
)
async def test_a_patch_changes_what_it_names_and_null_means_the_default(
    world: ApiWorld, tenant: str, patch: dict[str, Any], expected: dict[str, Any]
) -> None:
    created = await world.create_endpoint(
        tenant,
        "order.*",
        description="first",
        timeout_ms=900,
        redirects="fail",
        client_errors="retry",
        headers={"Authorization": "Bearer x", "X-Team": "a"},
        retry={"delays_seconds": [1, 2], "window_seconds": 3_600},
    )
    changed = await patched(world, created, patch)
    assert {**changed, "updated_at": ""} == {**shown(created), **expected, "updated_at": ""}
    assert stored(world, created["id"]).headers.get("Authorization") in ("Bearer x", None)


async def test_a_change_that_changes_nothing_writes_nothing(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant, description="x")
    before = len(world.records(ENDPOINTS.name))
    assert await patched(world, created, {"description": "x", "headers": {"X": None}}) == shown(created)
    assert len(world.records(ENDPOINTS.name)) == before


@pytest.mark.parametrize(
    ("patch", "code", "pointer"),
    [
        ({"id": "ep_2"}, "invalid_fields", "/id"),
        ({"tenant_id": "other"}, "invalid_fields", "/tenant_id"),
        ({"secret": BROUGHT}, "invalid_fields", "/secret"),
        ({"status": "paused"}, "invalid_fields", "/status"),
        ({"created_at": "2026-01-01T00:00:00Z"}, "invalid_fields", "/created_at"),
        ({"colour": "red"}, "invalid_fields", "/colour"),
        ({"url": None}, "invalid_fields", "/url"),
        ({"event_types": None}, "invalid_fields", "/event_types"),
        ({"event_types": []}, "invalid_fields", "/event_types"),
        ({"event_types": ["order"], "timeout_ms": 1}, "invalid_fields", "/timeout_ms"),
        ({"headers": {"Authorization": "********"}}, "invalid_fields", "/headers/Authorization"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "invalid_fields", "/headers/x-a"),
        ({"headers": {"Host": "a"}}, "invalid_fields", "/headers/Host"),
        ({"retry": {"base_seconds": 5}}, "invalid_fields", "/retry"),
        ({"retry": []}, "invalid_fields", "/retry"),
        ({"url": "http://169.254.169.254/", "verification": "skip"}, "url_not_allowed", "/url"),
        ({"url": "https://example.com/new"}, "invalid_fields", "/verification"),
        ([], "invalid_fields", None),
    ],
    ids=str,
)
async def test_a_patch_is_refused_whole(
    world: ApiWorld, tenant: str, patch: object, code: str, pointer: str | None
) -> None:
    created = await world.create_endpoint(tenant, retry={"delays_seconds": [1]})
    answer = await world.ask("PATCH", path_of(created), json=patch)
    assert_refused(answer, code, pointer)
    assert (await world.ask("GET", path_of(created))).json == shown(created)


async def test_a_default_timeout_beyond_the_fields_limit_does_not_stand_in_the_way(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    settings = make_settings()
    settings = settings.model_copy(
        update={"egress": settings.egress.model_copy(update={"timeout_ms": 60_000})}
    )
    async with ApiWorld(log, unread_delivery_log(), unused_store(), settings).running() as world:
        created = await world.create_endpoint()
        assert (await patched(world, created, {"description": "x"}))["timeout_ms"] == 60_000
    log.close()


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_an_unknown_endpoint_and_a_foreign_one_are_404(
    world: ApiWorld, tenant: str, method: str
) -> None:
    created = await world.create_endpoint(tenant)
    body = b"{}" if method == "PATCH" else None
    for path in (f"{ENDPOINTS_PATH}/ep_none", f"{path_of(created)}?tenant_id=somebody-else"):
        assert_refused(await world.ask(method, path, body=body), "not_found")
    assert (await world.ask("GET", f"{path_of(created)}?tenant_id={tenant}")).status == 200


async def test_a_deleted_endpoint_is_gone_everywhere(world: ApiWorld, tenant: str) -> None:
    created, kept = [await world.create_endpoint(tenant) for _ in range(2)]
    answer = await world.ask("DELETE", path_of(created))
    assert (answer.status, answer.body) == (204, b"")
    for method, suffix in [
        ("GET", ""),
        ("DELETE", ""),
        ("PATCH", ""),
        ("POST", "/enable"),
        ("POST", "/test"),
    ]:
        body = b"{}" if method == "PATCH" else None
        assert_refused(await world.ask(method, path_of(created) + suffix, body=body), "not_found")
    listed = (await world.ask("GET", f"{ENDPOINTS_PATH}?tenant_id={tenant}")).json
    assert [one["id"] for one in listed["data"]] == [kept["id"]]
    assert (await world.publish(tenant_id=tenant)).json["matched_endpoints"] == 1


async def test_head_answers_as_get_without_the_body(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant)
    for path in (path_of(created), f"{ENDPOINTS_PATH}?tenant_id={tenant}"):
        get, head = await world.ask("GET", path), await world.ask("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers.get("ETag") == get.headers.get("ETag")


# --- If-Match


@pytest.mark.parametrize(
    ("values", "tags", "is_any"),
    [
        ([], (), False),
        (["*"], (), True),
        ([' "1-active" '], ('"1-active"',), False),
        (['"a", "b"'], ('"a"', '"b"'), False),
        (['"a"', '"b"'], ('"a"', '"b"'), False),
        (['"a,b"'], ('"a,b"',), False),
        (['W/"a", "b"'], ('"b"',), False),
        (['W/"a"'], (), False),
        (['""'], ('""',), False),
    ],
)
async def test_if_match_is_read_by_the_grammar(
    values: list[str],
    tags: tuple[str, ...],
    is_any: bool,  # noqa: FBT001 - a column of the table
) -> None:
    precondition = parse_if_match(values)
    assert (precondition.tags, precondition.is_any, precondition.is_given) == (tags, is_any, bool(values))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "1-active",
        '"1',
        '1"',
        '"a" "b"',
        '"a";',
        'w/"a"',
        '*, "a"',
        "**",
        '"a\x7f"',
        '"' + "a" * 1_000 + '"',
    ],
)
async def test_an_if_match_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ProblemError) as refused:
        parse_if_match([value])
    assert refused.value.code == "bad_header"


@pytest.mark.parametrize(
    ("method", "suffix", "body"),
    [
        ("PATCH", "", {"description": "mine"}),
        ("POST", "/pause", None),
        ("POST", "/secret/rotate", {}),
        ("DELETE", "", None),
    ],
)
async def test_an_edit_from_an_old_version_is_412_and_names_the_new_one(
    world: ApiWorld, tenant: str, method: str, suffix: str, body: object
) -> None:
    created = await world.create_endpoint(tenant)
    old = (await world.ask("GET", path_of(created))).headers["ETag"]
    await patched(world, created, {"description": "theirs"})

    async def edit(if_match: str) -> Answer:
        return await world.ask(method, path_of(created) + suffix, json=body, headers={"If-Match": if_match})

    for stale in (old, f"W/{old}", '"99-active"', '"x", ' + old):
        refused = await edit(stale)
        assert_refused(refused, "version_conflict")
        assert refused.headers["ETag"] == '"2-active"'
    assert_refused(await edit("nonsense"), "bad_header")
    assert (await edit('"x", "2-active"')).status in (200, 204)


async def test_a_star_matches_whatever_is_there(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant)
    for number in range(2):
        body = {"description": str(number)}
        answer = await world.ask("PATCH", path_of(created), json=body, headers={"If-Match": "*"})
        assert (answer.status, answer.headers["ETag"]) == (200, f'"{number + 2}-active"')


# --- lists


async def test_pages_show_each_endpoint_once_in_order_of_age_whatever_happens_in_between(
    world: ApiWorld, tenant: str
) -> None:
    ids = [(await world.create_endpoint(tenant))["id"] for _ in range(9)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await world.ask("GET", f"{ENDPOINTS_PATH}?tenant_id={tenant}&limit=3{cursor}")).json
        seen += [one["id"] for one in page["data"]]
        assert all("secret" not in one for one in page["data"])
        if page["next_cursor"] is None:
            break
        # The last one shown goes away: the cursor stands between rows, not on one.
        await world.ask("DELETE", f"{ENDPOINTS_PATH}/{seen[-1]}")
        if len(seen) == 3:
            ids.append((await world.create_endpoint(tenant))["id"])
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == sorted(ids)  # ids of one millisecond have no order of age


async def test_filters_of_a_list(world: ApiWorld, tenant: str) -> None:
    orders = await world.create_endpoint(tenant, "order.*", url="https://example.com/a")
    invoices = await world.create_endpoint(tenant, "invoice.paid", url="https://example.com/b")
    await world.ask("POST", path_of(invoices) + "/pause")

    async def ids(query: str) -> list[str]:
        answer = await world.ask("GET", f"{ENDPOINTS_PATH}?tenant_id={tenant}&{query}")
        assert answer.status == 200, answer.body
        return [one["id"] for one in answer.json["data"]]

    assert await ids("limit=200") == [orders["id"], invoices["id"]]
    assert await ids("status=active") == [orders["id"]]
    assert await ids("status=paused") == [invoices["id"]]
    assert await ids("event_type=order.created") == [orders["id"]]
    assert await ids("url=https%3A%2F%2Fexample.com%2Fb") == [invoices["id"]]
    assert await ids("url=HTTPS%3A%2F%2FExample.com:443%2Fb") == [invoices["id"]]
    assert await ids("url=https%3A%2F%2Fexample.com%2Fb&status=active") == []
    assert await ids("url=nonsense") == []


async def test_a_list_of_everybody_needs_the_admin_key_and_no_tenant(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant)
    ids: list[str] = []
    query = "?limit=200"
    while query:
        page = (await world.ask("GET", ENDPOINTS_PATH + query)).json
        ids += [one["id"] for one in page["data"]]
        query = page["next_cursor"] and f"?limit=200&cursor={page['next_cursor']}"
    assert created["id"] in ids
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(
    "query", ["status=gone", "limit=0", "cursor=abc", "colour=red", "status=active&status=paused"]
)
async def test_a_list_refuses_what_it_does_not_know(world: ApiWorld, query: str) -> None:
    answer = await world.ask("GET", f"{ENDPOINTS_PATH}?{query}")
    assert answer.code in ("bad_parameter", "unknown_parameter")


async def test_a_cursor_is_good_for_its_own_filter_only(world: ApiWorld, tenant: str) -> None:
    for _ in range(2):
        await world.create_endpoint(tenant)
    page = (await world.ask("GET", f"{ENDPOINTS_PATH}?tenant_id={tenant}&limit=1")).json
    for query in ("limit=1", f"tenant_id={tenant}&status=active", f"tenant_id={tenant}&url=x"):
        answer = await world.ask("GET", f"{ENDPOINTS_PATH}?{query}&cursor={page['next_cursor']}")
        assert_refused(answer, "bad_parameter")


# --- status


EVERY = list(itertools.product(StatusAction, EndpointStatus, VerificationState))


@pytest.mark.parametrize(("action", "status", "verification"), EVERY)
async def test_no_action_leads_around_the_verification_and_each_may_be_repeated(
    action: StatusAction, status: EndpointStatus, verification: VerificationState
) -> None:
    before = Endpoint(
        id="ep_1",
        tenant_id="t",
        url="https://example.com/",
        event_types=("*",),
        secrets=(),
        created_at_ms=1,
        updated_at_ms=1,
        status=status,
        verification=Verification(verification),
        disabled_at_ms=5 if status is EndpointStatus.DISABLED else 0,
    )
    is_possible_state = not (status is EndpointStatus.ACTIVE and verification in UNSETTLED)
    if not isinstance(TABLE[action, status], EndpointStatus):
        with pytest.raises(ProblemError) as refused:
            apply(before, action, 9)
        assert refused.value.code == "wrong_state"
        assert status in (EndpointStatus.UNVERIFIED, EndpointStatus.DISABLED)
        return
    after = apply(before, action, 9)
    if is_possible_state:
        assert not (after.status is EndpointStatus.ACTIVE and verification in UNSETTLED)
    is_enabled = status is EndpointStatus.DISABLED and after.status is not EndpointStatus.DISABLED
    assert after.generation == before.generation + is_enabled
    assert bool(after.disabled_at_ms) == (after.status is EndpointStatus.DISABLED)
    if after.status is not EndpointStatus.UNVERIFIED:
        assert apply(after, action, 10) is after
    for settled in VerificationState:
        verified = with_verification(after, Verification(settled))
        if settled in UNSETTLED:
            assert verified.status is not EndpointStatus.ACTIVE
        else:
            assert verified.status is not EndpointStatus.UNVERIFIED
        if after.status in (EndpointStatus.PAUSED, EndpointStatus.DISABLED):
            assert verified.status is after.status, "what a person did stays so"


async def test_pause_resume_disable_and_enable_over_the_api(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant)

    async def act(action: str, expected: str) -> dict[str, Any]:
        answer = await world.ask("POST", f"{path_of(created)}/{action}")
        assert (answer.status, answer.json["status"]) == (200, expected), answer.body
        assert (await world.ask("GET", path_of(created))).json == answer.json
        body: dict[str, Any] = answer.json
        return body

    for action, expected in [
        ("pause", "paused"),
        ("pause", "paused"),
        ("resume", "active"),
        ("resume", "active"),
    ]:
        await act(action, expected)
    disabled = await act("disable", "disabled")
    assert disabled["disabled_at"] is not None
    assert await act("disable", "disabled") == disabled, "the 72 h do not begin anew"
    for action in ("pause", "resume"):
        problem = assert_refused(await world.ask("POST", f"{path_of(created)}/{action}"), "wrong_state")
        assert "enable" in problem["detail"]
    assert (await act("enable", "active"))["disabled_at"] is None
    assert stored(world, created["id"]).generation == 2


async def test_an_action_takes_an_empty_body_or_an_object(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant)
    path = f"{path_of(created)}/pause"
    assert (await world.ask("POST", path, body=b"{}")).status == 200
    assert (await world.ask("POST", path, body=b"")).status == 200
    assert_refused(await world.ask("POST", path, body=b"["), "malformed_json")


async def test_a_410_shows_as_disabled_at_once_and_enabling_outdates_it(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant)
    tag = (await world.ask("GET", path_of(created))).headers["ETag"]
    report = DisabledReport(created["id"], 1, now_ms(), "the endpoint answered 410 Gone")
    world.append(ENDPOINT_STATUS.name, 0, created["id"].encode(), DISABLED_REPORT.encode(report))

    read = await world.ask("GET", path_of(created))
    assert (read.json["status"], read.headers["ETag"]) == ("disabled", '"1-disabled"')
    assert read.json["disabled_at"] is not None
    listed = (await world.ask("GET", f"{ENDPOINTS_PATH}?tenant_id={tenant}&status=disabled")).json
    assert [one["id"] for one in listed["data"]] == [created["id"]]
    stale = await world.ask("POST", path_of(created) + "/pause", headers={"If-Match": tag})
    assert_refused(stale, "version_conflict")
    # A change of something else leaves it disabled, from the same moment on.
    assert (await patched(world, created, {"description": "x"}))["disabled_at"] == read.json["disabled_at"]

    enabled = await world.ask("POST", path_of(created) + "/enable")
    assert (enabled.json["status"], enabled.json["disabled_at"]) == ("active", None)
    world.append(ENDPOINT_STATUS.name, 0, created["id"].encode(), DISABLED_REPORT.encode(report))
    assert (await world.ask("GET", path_of(created))).json["status"] == "active", "it is of generation 1"


# --- secrets


def secrets_of(world: ApiWorld, endpoint_id: str, at_ms: int) -> tuple[bytes, ...]:
    return KeyRing([MASTER_KEY]).open_secrets(stored(world, endpoint_id), at_ms)


async def rotated(world: ApiWorld, endpoint: dict[str, Any], **body: object) -> dict[str, Any]:
    answer = await world.ask("POST", path_of(endpoint) + "/secret/rotate", json=body)
    assert answer.status == 200, answer.body
    assert "secret" not in (await world.ask("GET", path_of(endpoint))).json
    result: dict[str, Any] = answer.json
    return result


async def test_both_secrets_sign_until_the_overlap_ends(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant)
    before_ms = now_ms()
    new = await rotated(world, created, overlap_seconds=60)
    after_ms = now_ms()
    old_key, new_key = decode_secret(created["secret"]), decode_secret(new["secret"])
    assert old_key != new_key
    assert new["old_secrets_until"] is not None
    assert secrets_of(world, created["id"], before_ms + 59_000) == (new_key, old_key)
    assert secrets_of(world, created["id"], after_ms + 60_000) == (new_key,)
    # The next rotation does not prolong what is running out already.
    newest = await rotated(world, created)
    assert secrets_of(world, created["id"], after_ms + 60_000) == (decode_secret(newest["secret"]), new_key)


async def test_an_overlap_of_nothing_ends_the_old_secret_at_once(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant)
    new = await rotated(world, created, overlap_seconds=0)
    assert new["old_secrets_until"] is None
    assert [one.expires_at_ms for one in stored(world, created["id"]).secrets] == [None]
    assert secrets_of(world, created["id"], 0) == (decode_secret(new["secret"]),)


async def test_a_brought_secret_is_taken_once(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant)
    first = await rotated(world, created, secret=BROUGHT)
    again = await rotated(world, created, secret=BROUGHT)
    assert again == first, "a rotation repeated after a lost answer is one rotation"
    assert first["secret"] == BROUGHT
    assert secrets_of(world, created["id"], 0) == (decode_secret(BROUGHT), decode_secret(created["secret"]))


async def test_signatures_are_bounded(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant)
    for _ in range(12):
        last = await rotated(world, created)
    opened = secrets_of(world, created["id"], now_ms())
    assert len(opened) == 10
    assert opened[0] == decode_secret(last["secret"])


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"secret": "TOPSECRET"}, "/secret"),
        ({"secret": "whsec_VE9QU0VDUkVU"}, "/secret"),
        ({"overlap_seconds": -1}, "/overlap_seconds"),
        ({"overlap_seconds": 604_801}, "/overlap_seconds"),
        ({"overlap_seconds": 1.5}, "/overlap_seconds"),
        ({"colour": 1}, "/colour"),
    ],
)
async def test_a_bad_rotation_changes_nothing_and_quotes_nothing(
    world: ApiWorld, tenant: str, body: dict[str, object], pointer: str
) -> None:
    created = await world.create_endpoint(tenant)
    answer = await world.ask("POST", path_of(created) + "/secret/rotate", json=body)
    assert_refused(answer, "invalid_fields", pointer)
    assert b"TOPSECRET" not in answer.body
    assert b"VE9QU0VDUkVU" not in answer.body
    assert secrets_of(world, created["id"], 0) == (decode_secret(created["secret"]),)


@pytest.mark.parametrize("suffix", ["", "/{id}/secret/rotate", "/{id}/test"])
async def test_an_idempotency_key_is_refused_where_it_would_be_a_lie(
    world: ApiWorld, tenant: str, suffix: str
) -> None:
    created = await world.create_endpoint(tenant)
    before = len(world.records(ENDPOINTS.name))
    path = ENDPOINTS_PATH + suffix.format(id=created["id"])
    body = {"tenant_id": tenant, "url": "https://example.com", "event_types": ["*"], "verification": "skip"}
    answer = await world.ask("POST", path, json={} if suffix else body, key="k-1")
    assert "rotate" in assert_refused(answer, "bad_header")["detail"]
    assert len(world.records(ENDPOINTS.name)) == before


# --- tests and publishes


async def test_a_test_event_goes_to_this_endpoint_alone(world: ApiWorld, tenant: str) -> None:
    created = await world.create_endpoint(tenant, "never.this")
    await world.create_endpoint(tenant, "*")
    for body, event_type in ((None, "endpoint.test"), ({"type": "order.created"}, "order.created")):
        answer = await world.ask("POST", path_of(created) + "/test", json=body)
        assert (answer.status, answer.json["matched_endpoints"]) == (202, 1), answer.body
        assert answer.headers["Location"] == f"{EVENTS_PATH}/{answer.json['id']}"
        (sent,) = [one for one in world.events() if one.id == answer.json["id"]]
        assert (sent.type, sent.endpoint_ids, sent.tenant_id) == (event_type, (created["id"],), tenant)
    refused = await world.ask("POST", path_of(created) + "/test", json={"type": "no good"})
    assert_refused(refused, "invalid_fields", "/type")


async def test_an_endpoint_is_matched_by_the_publish_that_follows_its_creation_every_time(
    world: ApiWorld, tenant: str
) -> None:
    matched = []
    for number in range(ROUNDS):
        created = await world.create_endpoint(tenant, f"order.n{number}")
        published = await world.publish(tenant_id=tenant, type=f"order.n{number}")
        matched.append((created["id"], published.json["matched_endpoints"]))
    assert [count for _, count in matched] == [1] * ROUNDS


# --- a log that does not answer


class SilentLog:
    """The real log; when silent it writes, but does not acknowledge before `speak`."""

    def __init__(self, log: LocalLog) -> None:
        self._log = log
        self.is_silent = False
        self._held: list[tuple[TopicPartition, Sequence[Entry], OnAppended]] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - everything else is the log's
        return getattr(self._log, name)

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        if self.is_silent:
            self._held.append((to, entries, on_appended))
        else:
            self._log.append(to, entries, on_appended)

    def speak(self) -> None:
        """Writes what was held back, in order, and is itself again."""
        self.is_silent = False
        for held in self._held:
            self._log.append(*held)


async def test_a_change_nobody_knew_about_is_seen_by_the_next_one(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    silent = SilentLog(log)
    settings = make_settings(append_timeout_ms=100)
    async with ApiWorld(silent, unread_delivery_log(), unused_store(), settings).running() as world:
        created = await world.create_endpoint(description="first")
        silent.is_silent = True
        unsure = await world.ask("PATCH", path_of(created), json={"description": "unsure"})
        assert "not known" in assert_refused(unsure, "log_unavailable")["detail"]
        waiting = await world.ask("PATCH", path_of(created), json={"timeout_ms": 777})
        assert "Nothing was changed" in assert_refused(waiting, "log_unavailable")["detail"]
        silent.speak()  # and now the first one happens after all

        changed = await world.ask("PATCH", path_of(created), json={"timeout_ms": 900})
        assert (changed.status, changed.headers["ETag"]) == (200, '"3-active"')
        assert (changed.json["description"], changed.json["timeout_ms"]) == ("unsure", 900)
        revisions = [
            ENDPOINT.decode(one.value).revision
            for one in world.records(ENDPOINTS.name)
            if one.value is not None
        ]
        assert revisions == [1, 2, 3], "a revision names one state, in entity tags and in the key ring"
    log.close()
