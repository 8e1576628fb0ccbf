"""Every way to be refused: what was sent, and the status, the code and the field that it is answered with."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import ClientSession

from operators.event_rules import DATA_BYTES_MAX
from schemas.problem_codes import STATUS_OF, ProblemCode
from schemas.topics import ENDPOINTS, EVENTS
from tests.integration.api_world import (
    ADMIN_KEY,
    DELIVERIES_PATH,
    ENDPOINTS_PATH,
    EVENTS_PATH,
    Answer,
    ApiWorld,
    make_settings,
    open_log,
    unread_delivery_log,
    unused_store,
)

EVENT = {"tenant_id": "acme", "type": "order.created", "data": {}}
ENDPOINT = {"tenant_id": "acme", "url": "https://example.com/hook", "event_types": ["*"]}


# One API for all of them: a refusal leaves nothing behind, which `nothing_written` holds them to.
pytestmark = pytest.mark.asyncio(loop_scope="module")
refused = pytest.mark.usefixtures("nothing_written")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiWorld]:
    log = open_log(tmp_path_factory.mktemp("api") / "log")
    settings = make_settings(allow_private=False)
    async with ApiWorld(log, unread_delivery_log(), unused_store(), settings).running() as world:
        yield world
    log.close()


@pytest.fixture
def nothing_written(world: ApiWorld) -> Iterator[None]:
    before = len(world.records(EVENTS.name)), len(world.records(ENDPOINTS.name))
    yield
    assert (len(world.records(EVENTS.name)), len(world.records(ENDPOINTS.name))) == before


def assert_problem(answer: Answer, code: str) -> dict[str, Any]:
    """Checks the form that every problem has, and returns it."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.body
    problem: dict[str, Any] = answer.json
    assert problem["code"] == code, problem
    assert problem["type"] == f"urn:hooktide:problem:{code}"
    assert problem["status"] == answer.status == STATUS_OF[ProblemCode(code)]
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert problem["title"]
    assert problem["detail"].endswith(".")
    assert isinstance(problem["errors"], list)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "aiohttp" not in answer.headers["Server"].lower()
    return problem


NOT_JSON = {
    "nothing": b"",
    "cut": b'{"tenant_id":"acme"',
    "NaN": b'{"tenant_id":"acme","type":"a","data":NaN}',
    "Infinity": b'{"tenant_id":"acme","type":"a","data":-Infinity}',
    "1e400": b'{"tenant_id":"acme","type":"a","data":[1e400]}',
    "lone surrogate": b'{"tenant_id":"acme","type":"a","data":"\\ud800"}',
    "NUL": b'{"tenant_id":"acme","type":"a","data":"\\u0000"}',
    "raw NUL": b'{"tenant_id":"acme","type":"a","data":"\x00"}',
    "invalid UTF-8": b'{"tenant_id":"acme","type":"a","data":"\xff"}',
    "duplicate in the envelope": b'{"tenant_id":"acme","tenant_id":"acme","type":"a","data":1}',
    "duplicate in data": b'{"tenant_id":"acme","type":"a","data":{"a":1,"a":1}}',
    "10,000 deep": b'{"tenant_id":"acme","type":"a","data":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "129 deep": b'{"tenant_id":"acme","type":"a","data":' + b"[" * 128 + b"]" * 128 + b"}",
}


@refused
@pytest.mark.parametrize("path", [EVENTS_PATH, ENDPOINTS_PATH])
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_what_is_not_strict_json_is_400(world: ApiWorld, path: str, body: bytes) -> None:
    assert_problem(await world.ask("POST", path, body=body), "malformed_json")


BAD_EVENTS: dict[str, tuple[Any, str, str]] = {
    "no object": ([1], "", "wrong_type"),
    "no tenant": ({**EVENT, "tenant_id": None}, "/tenant_id", "required"),
    "tenant of another grammar": ({**EVENT, "tenant_id": "a b"}, "/tenant_id", "invalid"),
    "tenant too long": ({**EVENT, "tenant_id": "a" * 65}, "/tenant_id", "invalid"),
    "tenant a number": ({**EVENT, "tenant_id": 7}, "/tenant_id", "wrong_type"),
    "no type": ({"tenant_id": "acme", "data": {}}, "/type", "required"),
    "empty type": ({**EVENT, "type": ""}, "/type", "invalid"),
    "type with a plus": ({**EVENT, "type": "order+created"}, "/type", "invalid"),
    "type with a dot too many": ({**EVENT, "type": "order..created"}, "/type", "invalid"),
    "type that is a pattern": ({**EVENT, "type": "order.*"}, "/type", "invalid"),
    "type with a line feed": ({**EVENT, "type": "order\n"}, "/type", "invalid"),
    "type too long": ({**EVENT, "type": "a" * 129}, "/type", "invalid"),
    "no data": ({"tenant_id": "acme", "type": "a"}, "/data", "required"),
    "unknown field": ({**EVENT, "payload": {}}, "/payload", "unknown_field"),
    "id of one's own": ({**EVENT, "id": "evt_1"}, "/id", "unknown_field"),
    "unknown field with a slash": ({**EVENT, "a/b~c": {}}, "/a~1b~0c", "unknown_field"),
    "time without offset": ({**EVENT, "occurred_at": "2026-01-31T12:00:00"}, "/occurred_at", "invalid"),
    "time as a number": ({**EVENT, "occurred_at": 1_700_000_000}, "/occurred_at", "wrong_type"),
    "a 30th of February": ({**EVENT, "occurred_at": "2026-02-30T12:00:00Z"}, "/occurred_at", "invalid"),
    "time before 1970": ({**EVENT, "occurred_at": "1969-12-31T23:59:59Z"}, "/occurred_at", "invalid"),
    "no endpoint ids": ({**EVENT, "endpoint_ids": []}, "/endpoint_ids", "invalid"),
    "101 endpoint ids": (
        {**EVENT, "endpoint_ids": [f"ep_{n}" for n in range(101)]},
        "/endpoint_ids",
        "invalid",
    ),
    "endpoint id of another grammar": ({**EVENT, "endpoint_ids": ["a b"]}, "/endpoint_ids", "invalid"),
}


@refused
@pytest.mark.parametrize(("body", "pointer", "code"), BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
async def test_a_bad_event_is_422_and_names_the_field(
    world: ApiWorld, body: object, pointer: str, code: str
) -> None:
    problem = assert_problem(await world.ask("POST", EVENTS_PATH, json=body), "invalid_fields")
    assert [(error["pointer"], error["code"]) for error in problem["errors"]] == [(pointer, code)]


BAD_ENDPOINTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no tenant": ({"tenant_id": None}, "/tenant_id", "required"),
    "bad tenant": ({"tenant_id": "a/b"}, "/tenant_id", "invalid"),
    "unknown field": ({"urls": []}, "/urls", "unknown_field"),
    "no patterns": ({"event_types": []}, "/event_types", "invalid"),
    "101 patterns": ({"event_types": [f"a{n}" for n in range(101)]}, "/event_types", "invalid"),
    "one bad pattern": ({"event_types": ["a", "b.*.c"]}, "/event_types/1", "invalid"),
    "patterns a string": ({"event_types": "*"}, "/event_types", "wrong_type"),
    "secret without prefix": ({"secret": "c2VjcmV0"}, "/secret", "invalid"),
    "secret too short": ({"secret": "whsec_c2VjcmV0"}, "/secret", "invalid"),
    "secret no base64": ({"secret": "whsec_" + "!" * 40}, "/secret", "invalid"),
    "hop-by-hop header": ({"headers": {"Connection": "close"}}, "/headers/Connection", "not_allowed"),
    "our header": ({"headers": {"Webhook-Id": "x"}}, "/headers/Webhook-Id", "not_allowed"),
    "line feed in a header": ({"headers": {"X-A": "a\r\nX-B: c"}}, "/headers/X-A", "not_allowed"),
    "header a number": ({"headers": {"X-A": 1}}, "/headers/X-A", "wrong_type"),
    "api version unknown": ({"api_version": "9"}, "/api_version", "not_allowed"),
    "description too long": ({"description": "a" * 513}, "/description", "too_long"),
    "verification not there yet": ({"verification": "sync"}, "/verification", "not_available"),
    "verification unknown": ({"verification": "maybe"}, "/verification", "not_allowed"),
    "timeout too short": ({"timeout_ms": 99}, "/timeout_ms", "out_of_range"),
    "timeout too long": ({"timeout_ms": 30_001}, "/timeout_ms", "out_of_range"),
    "timeout a string": ({"timeout_ms": "5000"}, "/timeout_ms", "wrong_type"),
    "timeout a boolean": ({"timeout_ms": True}, "/timeout_ms", "wrong_type"),
    "redirects unknown": ({"redirects": "follow"}, "/redirects", "not_allowed"),
    "client errors unknown": ({"client_errors": "ignore"}, "/client_errors", "not_allowed"),
    "retry of no form": ({"retry": {}}, "/retry", "one_form"),
    "retry of both forms": ({"retry": {"delays_seconds": [1], "base_seconds": 1}}, "/retry", "one_form"),
    "retry without base": ({"retry": {"max_seconds": 1}}, "/retry", "one_form"),
    "retry with max below base": ({"retry": {"base_seconds": 2, "max_seconds": 1}}, "/retry", "out_of_range"),
    "retry without delays": ({"retry": {"delays_seconds": []}}, "/retry/delays_seconds", "too_short"),
    "retry delay of nothing": (
        {"retry": {"delays_seconds": [1, 0]}},
        "/retry/delays_seconds/1",
        "out_of_range",
    ),
    "window over 72 h": (
        {"retry": {"delays_seconds": [1], "window_seconds": 259_201}},
        "/retry/window_seconds",
        "out_of_range",
    ),
}


@refused
@pytest.mark.parametrize(("change", "pointer", "code"), BAD_ENDPOINTS.values(), ids=BAD_ENDPOINTS.keys())
async def test_a_bad_endpoint_is_422_and_names_the_field(
    world: ApiWorld, change: dict[str, Any], pointer: str, code: str
) -> None:
    answer = await world.ask("POST", ENDPOINTS_PATH, json=ENDPOINT | change)
    problem = assert_problem(answer, "invalid_fields")
    assert [(error["pointer"], error["code"]) for error in problem["errors"]] == [(pointer, code)]


@refused
async def test_every_mistake_is_named_at_once(world: ApiWorld) -> None:
    body = {"tenant_id": "a b", "url": "http://10.0.0.1/", "event_types": ["+"], "headers": {"Host": "x"}}
    problem = assert_problem(await world.ask("POST", ENDPOINTS_PATH, json=body), "invalid_fields")
    assert {error["pointer"] for error in problem["errors"]} == {
        "/tenant_id",
        "/url",
        "/event_types/0",
        "/headers/Host",
    }


@refused
async def test_a_thousand_unknown_fields_are_answered_with_a_bounded_list(world: ApiWorld) -> None:
    body = EVENT | {f"{n:03d}" * 80: 1 for n in range(1_000)}
    answer = await world.ask("POST", EVENTS_PATH, json=body)
    assert_problem(answer, "invalid_fields")
    assert len(answer.body) < 32_000


@refused
@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://[::ffff:10.0.0.1]/",
        "https://localhost/",
        "https://user:pass@example.com/",
        "https://example.com:8080/",
        "ftp://example.com/",
        "example.com",
    ],
)
async def test_a_forbidden_url_is_url_not_allowed(world: ApiWorld, url: str) -> None:
    answer = await world.ask("POST", ENDPOINTS_PATH, json=ENDPOINT | {"url": url})
    problem = assert_problem(answer, "url_not_allowed")
    assert [(error["pointer"], error["code"]) for error in problem["errors"]] == [("/url", "url_not_allowed")]


@refused
async def test_no_refusal_repeats_the_secret(world: ApiWorld) -> None:
    answer = await world.ask("POST", ENDPOINTS_PATH, json=ENDPOINT | {"secret": "whsec_TOPSECRET", "x": 1})
    assert b"TOPSECRET" not in answer.body
    answer = await world.ask("POST", ENDPOINTS_PATH, json=ENDPOINT | {"secret": ["TOPSECRET"]})
    assert b"TOPSECRET" not in answer.body


@refused
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/jsonp"},
        {"Content-Encoding": "gzip"},
    ],
)
async def test_another_media_type_is_415(world: ApiWorld, headers: dict[str, str]) -> None:
    # Sent by hand: the client would compress, or fail to.
    body = msgspec.json.encode(EVENT)
    head = {"Host": "x", "Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"} | headers
    lines = [f"POST {EVENTS_PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write("\r\n".join(lines).encode() + body)
    answer = await reader.read()
    writer.close()
    assert b" 415 " in answer.split(b"\r\n")[0]
    assert b"unsupported_media_type" in answer


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
async def test_json_in_utf_8_may_say_so(world: ApiWorld, content_type: str) -> None:
    answer = await world.ask("POST", EVENTS_PATH, json=EVENT, headers={"Content-Type": content_type})
    assert answer.status == 202


async def test_data_may_be_256_kib_and_not_a_byte_more(world: ApiWorld) -> None:
    edge = "x" * (DATA_BYTES_MAX - 2)
    assert (await world.publish(data=edge)).status == 202
    assert_problem(await world.publish(data=edge + "x"), "too_large")
    assert_problem(await world.publish(data=edge * 3), "too_large")
    assert max(len(bytes(event.data)) for event in world.events()) == DATA_BYTES_MAX


@refused
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {ADMIN_KEY}", ADMIN_KEY, "Bearer \xff"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", EVENTS_PATH), ("GET", EVENTS_PATH + "/evt_1"), ("GET", "/metrics"), ("GET", "/no/such/path")],
)
async def test_without_the_key_everything_is_401(
    world: ApiWorld, method: str, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = await world.ask(method, path, headers=headers, is_authorized=False)
    assert_problem(answer, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@refused
async def test_the_scheme_may_be_written_in_any_case(world: ApiWorld) -> None:
    answer = await world.ask("GET", "/metrics", headers={"Authorization": f"bearer {ADMIN_KEY}"})
    assert answer.status == 200


@refused
@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/v1/event", "/api/v1/events/", "/api/v2/events", "/livez/x"]
)
async def test_an_unknown_path_is_404(world: ApiWorld, path: str) -> None:
    assert_problem(await world.ask("GET", path), "not_found")


@refused
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", EVENTS_PATH, {"GET", "HEAD", "POST"}),
        ("PUT", EVENTS_PATH + "/evt_1", {"GET", "HEAD"}),
        ("PUT", ENDPOINTS_PATH, {"GET", "HEAD", "POST"}),
        ("OPTIONS", ENDPOINTS_PATH + "/ep_1", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("GET", ENDPOINTS_PATH + "/ep_1/pause", {"POST"}),
        ("POST", ENDPOINTS_PATH + "/ep_1", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
    ],
)
async def test_another_method_is_405_with_allow(
    world: ApiWorld, method: str, path: str, allowed: set[str]
) -> None:
    answer = await world.ask(method, path)
    assert_problem(answer, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed


@refused
@pytest.mark.parametrize(
    ("path", "code"),
    [
        (EVENTS_PATH + "/evt_1?x=1", "unknown_parameter"),
        (EVENTS_PATH + "/evt_1?tenant_id=a&tenant_id=b", "bad_parameter"),
        (EVENTS_PATH + "/evt_1/deliveries?limit=0", "bad_parameter"),
        (EVENTS_PATH + "/evt_1/deliveries?limit=201", "bad_parameter"),
        (EVENTS_PATH + "/evt_1/deliveries?limit=-1", "bad_parameter"),
        (EVENTS_PATH + "/evt_1/deliveries?limit=%D9%A3", "bad_parameter"),
        (EVENTS_PATH + "/evt_1/deliveries?cursor=abc", "bad_parameter"),
        (EVENTS_PATH + "/evt_1/deliveries?cursor=%00", "bad_parameter"),
        (DELIVERIES_PATH + "/dlv_1?limit=5", "unknown_parameter"),
        (ENDPOINTS_PATH + "/ep_1?verbose", "unknown_parameter"),
        ("/metrics?name=x", "unknown_parameter"),
    ],
)
async def test_a_parameter_that_is_not_known_or_not_good_is_400(
    world: ApiWorld, path: str, code: str
) -> None:
    assert_problem(await world.ask("GET", path), code)


@refused
async def test_a_publish_takes_no_parameters(world: ApiWorld) -> None:
    assert_problem(await world.ask("POST", EVENTS_PATH + "?dry_run=1", json=EVENT), "unknown_parameter")


@refused
@pytest.mark.parametrize("key", ["", " ", '""', '"', '"a', "a b", '"a b"', "a" * 256, "\u00e9", "a\tb"])
async def test_a_bad_idempotency_key_is_400(world: ApiWorld, key: str) -> None:
    assert_problem(await world.ask("POST", EVENTS_PATH, json=EVENT, key=key), "bad_header")


@refused
async def test_two_idempotency_keys_are_400(world: ApiWorld) -> None:
    headers = [("Authorization", f"Bearer {ADMIN_KEY}"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    async with ClientSession() as session:
        url = f"http://127.0.0.1:{world.port}{EVENTS_PATH}"
        async with session.post(url, json=EVENT, headers=headers) as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (400, "bad_header")


@refused
@pytest.mark.parametrize("name", ["ep_nobody", "a%00b", "%ff", "x" * 500, "..%2f..%2fetc", "a b"])
async def test_an_unknown_endpoint_is_404(world: ApiWorld, name: str) -> None:
    assert_problem(await world.ask("GET", f"{ENDPOINTS_PATH}/{name}"), "not_found")


async def test_an_endpoint_of_another_tenant_is_404(world: ApiWorld) -> None:
    created = await world.create_endpoint("acme")
    path = f"{ENDPOINTS_PATH}/{created['id']}"
    assert (await world.ask("GET", path + "?tenant_id=acme")).status == 200
    assert_problem(await world.ask("GET", path + "?tenant_id=other"), "not_found")


@refused
async def test_a_body_that_ends_early_or_is_framed_wrongly_is_no_500(world: ApiWorld) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    head = f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    writer.write(
        head.encode() + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    )
    answer = await reader.read(65_536)
    writer.close()
    assert b" 400 " in answer.split(b"\r\n")[0]  # by the server itself, in plain text: it was no HTTP


@refused
async def test_a_request_id_is_echoed_when_it_is_harmless(world: ApiWorld) -> None:
    answer = await world.ask("GET", "/metrics", headers={"X-Request-Id": "trace-1"})
    assert answer.headers["X-Request-Id"] == "trace-1"
    answer = await world.ask("GET", "/metrics", headers={"X-Request-Id": "a b<script>"})
    assert answer.headers["X-Request-Id"].startswith("req_")
