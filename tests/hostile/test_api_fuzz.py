"""The fuzzer against a real process: no answer that no request may earn, and nothing accepted that is lost.

Twenty seconds in every run; `HOOKTIDE_FUZZ_SECONDS=120 HOOKTIDE_FUZZ_SEED=7 ./hooktide test
tests/hostile/test_api_fuzz.py` takes its time, and another seed. Then the fuzzer itself: it finds what was
planted.
"""

import asyncio
import os
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from api.answers import json_answer
from api.app import build_app
from api.auth import Authenticator
from api.bodies import parse_object, read_body
from api.deps import ApiDeps
from api.entity_tags import parse_if_match
from api.front import Front, Handler
from api.idempotency_key import parse_key
from api.metrics import ApiMetrics
from api.pages import page_of
from api.problems import ProblemError
from api.server import start_server
from dataflows.connectors.key_ring import KeyRing
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import TopicPartition
from dataflows.connectors.table_view import TableView
from deploy.process.embedded_parts import partition_counts
from deploy.receiver.receiver import ReceiverThread
from schemas.endpoint import Endpoint
from schemas.settings import Settings
from schemas.topics import ENDPOINTS, EVENTS
from schemas.wire.records import ENDPOINT, decode_event
from tests.hostile.api_fuzz_words import COLLECTED_TENANTS, Route
from tests.hostile.api_fuzzer import Report, fuzz, routes_of
from tests.integration.api_world import (
    ADMIN_KEY,
    MASTER_KEY,
    now_ms,
    open_log,
    unread_delivery_log,
    unused_store,
)
from tests.integration.hooktide_process import HooktideProcess, await_events

SECONDS = float(os.environ.get("HOOKTIDE_FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("HOOKTIDE_FUZZ_SEED", "4"))
# A machine that is busy for ten seconds is no bug; an answer that says so would hide one.
IMPATIENT_S = 1.0
PATIENT = {"HOOKTIDE__API__APPEND_TIMEOUT_MS": "15000"}


@pytest.fixture
def routes(tmp_path: Path) -> Iterator[list[Route]]:
    """The routes of the application as it is built, without running it."""
    log = open_log(tmp_path / "routes")
    view: TableView[Endpoint] = TableView(log, ENDPOINTS.name, ENDPOINT.decode)
    deps = ApiDeps(
        log=log,
        endpoints=view,
        delivery_log=unread_delivery_log(),
        key_ring=KeyRing([MASTER_KEY]),
        idempotency=unused_store(),
        admin_key=ADMIN_KEY,
        settings=Settings(),
        clock_ms=now_ms,
        entropy=os.urandom,
        readiness=list,
        registry=CollectorRegistry(),
    )
    yield routes_of(build_app(deps))
    view.close()
    log.close()


@pytest.mark.timeout(SECONDS + 150)
def test_no_request_earns_a_5xx_and_nothing_accepted_is_lost(tmp_path: Path, routes: list[Route]) -> None:
    process = HooktideProcess(tmp_path)
    try:
        with ReceiverThread() as collector:
            process.start(env=PATIENT)
            for tenant_id in COLLECTED_TENANTS:
                process.create_endpoint(collector.url + "/collect", tenant_id=tenant_id)
            host, _, port = process.url.removeprefix("http://").partition(":")
            report = fuzz((host, int(port)), process.admin_key, routes, seed=SEED, seconds=SECONDS)
            assert not report.findings, _shown(report)
            assert process.process.poll() is None, process.log
            for endpoint_id in sorted(report.created):
                assert process.api("GET", f"webhooks/endpoints/{endpoint_id}").status == 200
            wanted = {one for one, is_collected in report.promised.items() if is_collected}
            collected = await_events(collector, wanted, 60.0)
            assert process.terminate() == 0, process.log
        lost = report.lost(events_of(process.data), collected)
        assert not lost, f"{len(lost)} of {len(report.promised)}: {lost[:5]}\n{process.log[-2_000:]}"
        assert not [line for line in process.log_lines if line.get("event") == "request_failed"]
        _assert_it_was_a_good_run(report, routes)
    finally:
        process.close()


def _assert_it_was_a_good_run(report: Report, routes: list[Route]) -> None:
    """A fuzzer whose every request is refused at the door tests the door."""
    answered = {route for route, status in report.statuses if status}
    assert answered == set(routes)
    went_well = {route for route, status in report.statuses if 200 <= status < 300}
    assert len(went_well) > len(answered) / 2, sorted(answered - went_well)
    assert len(report.promised) > 20
    assert len(report.created) > 2


def events_of(data: Path) -> set[str]:
    """Returns the ids of all events in the log of a stopped process."""
    log = LocalLog.open(data / "log", partitions=partition_counts(Settings()), clock_ms=now_ms, linger_ms=1.0)
    found: set[str] = set()
    for number in range(log.partition_count(EVENTS.name)):
        part = TopicPartition(EVENTS.name, number)
        reader = log.reader({part: log.start(part)})
        while records := reader.poll(part, 1_000):
            found |= {decode_event(record.value or b"").id or "" for record in records}
        reader.close()
    log.close()
    return found


def _shown(report: Report) -> str:
    return "\n\n".join(f"{why}\n{wire[:2_000]!r}" for why, wire in report.findings[:5])


async def _bad_cursor(request: web.Request) -> web.Response:
    """Forgets that base64 may be none."""
    return json_answer({"after": b64decode(request.query.get("cursor", "")).hex()})


async def _bad_field(request: web.Request) -> web.Response:
    """Forgets that a field may be of another type."""
    body = parse_object(await read_body(request))
    return json_answer({"timeout_s": body.get("timeout_ms", 0) / 1_000})


async def _hung(request: web.Request) -> web.Response:
    """Waits for the rest of a body that is whole."""
    if request.headers.get("If-Match") == "*":
        await asyncio.sleep(3 * IMPATIENT_S)
    return json_answer({})


async def _plain(request: web.Request) -> web.Response:
    """Refuses in a form of its own."""
    return web.Response(status=400 if request.query else 200, text="no")


Planted = Callable[[web.Request], Awaitable[web.Response]]


@pytest.mark.parametrize(
    ("method", "planted", "why"),
    [
        ("GET", _bad_cursor, "500"),
        ("POST", _bad_field, "500"),
        ("PATCH", _hung, "no answer"),
        ("GET", _plain, "no problem document"),
    ],
)
async def test_what_is_planted_is_found(method: str, planted: Planted, why: str) -> None:
    front = Front(Authenticator(ADMIN_KEY), ApiMetrics(CollectorRegistry()), "fuzz")

    @web.middleware
    async def through_the_front(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await front.handle(request, handler)

    app = web.Application(middlewares=[through_the_front])
    app.router.add_route(method, "/api/v1/planted/{planted_id}", planted)
    app.router.add_route("POST", "/api/v1/sound", _sound)
    runner, port = await start_server(app, "127.0.0.1", 0)
    try:
        report = await asyncio.to_thread(
            fuzz,
            ("127.0.0.1", port),
            ADMIN_KEY,
            routes_of(app),
            seed=SEED,
            seconds=30.0,
            findings_max=1,
            answer_timeout_s=IMPATIENT_S,
        )
    finally:
        await runner.cleanup()
    assert report.findings
    assert all(why in found for found, _ in report.findings)
    assert all(b"/planted/" in wire for _, wire in report.findings)


async def _sound(request: web.Request) -> web.Response:
    return json_answer(parse_object(await read_body(request)))


def test_a_broken_promise_is_noticed() -> None:
    report = Report(promised={"evt_1": True, "evt_2": False, "evt_3": True})
    assert report.lost({"evt_1", "evt_2", "evt_3"}, {"evt_1", "evt_3"}) == []
    assert report.lost({"evt_1", "evt_2"}, {"evt_1", "evt_3"}) == ["evt_3 was accepted and is not in the log"]
    assert report.lost({"evt_1", "evt_2", "evt_3"}, {"evt_1"}) == ["evt_3 was accepted and not delivered"]


READERS: Mapping[str, Callable[[str], object]] = {
    "If-Match": lambda text: parse_if_match([text]),
    "Idempotency-Key": lambda text: parse_key([text]),
    "limit": lambda text: page_of({"limit": text}, "list"),
    "cursor": lambda text: page_of({"cursor": text}, "list"),
    "body": lambda text: parse_object(text.encode("utf-8", "surrogatepass")),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@given(text=st.one_of(st.text(), st.text('"W/\\, *=[]{}:0a\x00\ud800', max_size=40)))
def test_whatever_is_read_by_hand_is_read_or_refused(reader: Callable[[str], object], text: str) -> None:
    refusal = None
    try:
        reader(text)
    except ProblemError as problem:
        refusal = problem
    assert refusal is None or refusal.status < 500
    assert refusal is None or refusal.detail.endswith(".")
