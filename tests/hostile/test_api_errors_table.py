"""`docs/api-errors.md` held against the real API: every row is sent, and every refusal is in a row."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from dataflows.connectors.delivery_log.chdb import ChdbLog
from dataflows.connectors.idempotency_store import IdempotencyStore
from dataflows.connectors.log.port import TopicPartition
from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from dataflows.connectors.sender.resolver import Resolver
from deploy.checks import ROOT
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from schemas.problem_codes import STATUS_OF, ProblemCode
from schemas.topics import ALL_TOPICS
from tests.conformance.scripted_server import Peer, ScriptedServer
from tests.hostile.api_errors_table import Request, Row, Section, expand, read_page
from tests.integration.api_world import (
    ADMIN_KEY,
    ENDPOINTS_PATH,
    ApiWorld,
    make_settings,
    open_log,
)

PAGE = ROOT / "docs" / "api-errors.md"
SECTIONS = read_page(PAGE)
ROWS = [(section, row) for section in SECTIONS for row in section.rows]

# What no request from outside can provoke at will, and where it is tested instead.
ELSEWHERE = {
    ProblemCode.FORBIDDEN: "there are no keys of tenants yet",
    ProblemCode.REQUEST_TIMEOUT: "test_api_slow_clients.py",
    ProblemCode.IN_PROGRESS: "test_api_app.py",
    ProblemCode.LOG_UNAVAILABLE: "test_api_app.py",
    ProblemCode.DISK_FULL: "test_disk_full.py",
    ProblemCode.NOT_READY: "test_api_app.py",
    ProblemCode.INTERNAL: "nothing may: test_api_fuzz.py",
}
DOMAIN_NAMES = {
    "ten.example": "10.0.0.1",
    "mixed.example": "93.184.216.34 127.0.0.1",
    "metadata.example": "169.254.169.254",
    "loopback.example": "127.0.0.1",
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Stage:
    """A running API with everything that the page names."""

    world: ApiWorld
    names: dict[str, str]

    async def send(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers and body of the answer to exactly these bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.world.port)
        writer.write(request.wire(ADMIN_KEY))
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(status.split()[1]), headers, body

    def ends(self) -> dict[TopicPartition, int]:
        """Returns how far every partition of every topic reaches."""
        log = self.world.log
        names = [(topic.name, log.partition_count(topic.name)) for topic in ALL_TOPICS]
        parts = [TopicPartition(name, number) for name, count in names for number in range(count)]
        return {part: log.end(part) for part in parts}

    def written_since(self, before: dict[TopicPartition, int]) -> list[tuple[str, bytes]]:
        """Returns topic and key of what was written, but for what the background writes of its own accord."""
        found: list[tuple[str, bytes | None]] = []
        for part, end in self.ends().items():
            if end > before[part]:
                reader = self.world.log.reader({part: before[part]})
                found += [(part.topic, record.key) for record in reader.poll(part, end - before[part])]
                reader.close()
        return [(topic, key or b"") for topic, key in found if key != self.names["unverified"].encode()]


@pytest.fixture(scope="module")
def delivery_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChdbLog]:
    log = ChdbLog(tmp_path_factory.mktemp("chdb"), "errors")
    log.migrate()
    yield log
    log.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stages(
    tmp_path_factory: pytest.TempPathFactory, delivery_log: ChdbLog
) -> AsyncIterator[dict[bool, Stage]]:
    """The API as in production, and with --allow-private; made once, because refusals leave no trace."""
    async with AsyncExitStack() as closing:
        receiver = closing.enter_context(ReceiverThread())
        broken = closing.enter_context(ScriptedServer(_no_http, names=DOMAIN_NAMES))
        made: dict[bool, Stage] = {}
        for allow_private in (False, True):
            directory = tmp_path_factory.mktemp("api")
            log = open_log(directory / "log")
            closing.callback(log.close)
            store = IdempotencyStore(directory / "idempotency", kept_hours=24)
            closing.callback(store.close)
            sender = open_aiohttp_sender(
                EgressPolicy(allow_private=allow_private),
                make_resolver=lambda: Resolver(time.monotonic, nameservers=[broken.nameserver]),
            )
            closing.callback(sender.close, 1.0)
            settings = make_settings(allow_private=allow_private)
            world = ApiWorld(log, delivery_log, store, settings, probe_sender=sender)
            await closing.enter_async_context(world.running())
            made[allow_private] = Stage(world, await _names(world, receiver, broken))
        yield made


async def _no_http(peer: Peer) -> None:
    await peer.reader.readuntil(b"\r\n\r\n")
    peer.writer.write(b"this is no HTTP\r\n\r\n")


async def _names(world: ApiWorld, receiver: ReceiverThread, broken: ScriptedServer) -> dict[str, str]:
    """Makes what the page's requests name."""
    receiver.behave(Behaviour(status=500), "/fails")
    receiver.behave(Behaviour(status=302, headers=(("location", "/elsewhere"),)), "/moved")
    receiver.behave(Behaviour(hang=True), "/hangs")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed_port = taken.getsockname()[1]
    names = {
        "fails": receiver.url + "/fails",
        "moved": receiver.url + "/moved",
        "hangs": receiver.url + "/hangs",
        "no http": broken.url(),
        "closed": f"http://127.0.0.1:{closed_port}/",
    }
    for name, actions in {"active": (), "paused": ("pause",), "disabled": ("disable",)}.items():
        created = await world.create_endpoint(verification="skip", headers={"X-Api-Key": "k"})
        names[name] = created["id"]
        for action in actions:
            answer = await world.ask("POST", f"{ENDPOINTS_PATH}/{created['id']}/{action}")
            assert answer.status == 200, answer.body
    other = await world.create_endpoint("other", verification="skip")
    names["endpoint of other"] = other["id"]
    listed = await world.ask("GET", ENDPOINTS_PATH + "?limit=1")
    names["cursor of all endpoints"] = listed.json["next_cursor"]
    published = await world.publish(key="used-key")
    names["event"] = published.json["id"]
    waiting = await world.ask(
        "POST",
        ENDPOINTS_PATH,
        json={
            "tenant_id": "acme",
            "url": "https://no-such.example/",
            "event_types": ["*"],
            "verification": "async",
        },
    )
    assert waiting.status == 201, waiting.body
    names["unverified"] = waiting.json["id"]
    await _exhaust_verifications(world, "crowded")
    return names


async def _exhaust_verifications(world: ApiWorld, tenant_id: str) -> None:
    body = {"tenant_id": tenant_id, "url": "https://no-such.example/", "event_types": ["*"]}
    for _ in range(world.settings.api.verifications_per_minute_tenant + 1):
        answer = await world.ask("POST", ENDPOINTS_PATH, json=body)
        if answer.status == 429:
            return
        assert answer.code == "endpoint_unreachable", answer.body
    raise AssertionError("nobody counted the verifications")


def _stage(stages: dict[bool, Stage], section: Section) -> Stage:
    return stages["--allow-private" in section.options]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.title)
async def test_a_section_begins_with_a_request_that_is_accepted(
    stages: dict[bool, Stage], section: Section
) -> None:
    if "refused" in section.options:
        return  # it says so: the rows change something else than a good request
    stage = _stage(stages, section)
    status, _, body = await stage.send(section.request(stage.names))
    assert status < 300, body


@pytest.mark.parametrize(("section", "row"), ROWS, ids=[f"line-{row.line}" for _, row in ROWS])
async def test_a_row_is_refused_as_it_says_and_leaves_no_trace(
    stages: dict[bool, Stage], section: Section, row: Row
) -> None:
    stage = _stage(stages, section)
    request = section.changed(row, stage.names)
    before = stage.ends()
    status, headers, body = await stage.send(request)
    assert stage.written_since(before) == []
    if request.method == "HEAD":
        assert (status, body) == (row.status, b"")
        return
    assert headers["content-type"] == "application/problem+json", (status, body)
    problem: dict[str, Any] = json.loads(body)
    assert (status, problem["code"]) == (row.status, row.code), problem["detail"]
    assert row.is_answered_by(problem["detail"]), problem["detail"]
    assert STATUS_OF[ProblemCode(problem["code"])] == problem["status"] == status
    assert problem["detail"].endswith(".")
    if row.code not in ("malformed_http", "head_too_large"):  # those never became a request
        assert problem["request_id"] == headers["x-request-id"]


async def test_every_problem_code_has_a_row() -> None:
    in_rows = {row.code for _, row in ROWS}
    missing = {code for code in ProblemCode if code.value not in in_rows}
    assert missing == set(ELSEWHERE)
    for code in ELSEWHERE:
        assert f"`{code}`" in PAGE.read_text()


async def test_the_spellings_of_forbidden_addresses_are_at_least_sixty() -> None:
    sent = {row.sent for section, row in ROWS if section.title == "Forbidden addresses in every spelling"}
    assert len(sent) >= 60


async def test_what_a_row_sends_is_what_the_page_says() -> None:
    names = {"active": "ep_1"}
    section = Section("t", (), 'POST /a/\u27e8active\u27e9\nX-A: b\n\n{"a": {"b": 1}}')
    row = Row(1, "", ("/a/b = 2", "- X-A", "+ X-B: \u27e8hex ff\u27e9", "PUT ?x"), 0, "", "cut \u2026 here.")
    changed = section.changed(row, names)
    assert (changed.method, changed.path, changed.body) == ("PUT", b"/a/ep_1?x", b'{"a": {"b": 2}}')
    assert b"X-B: \xff\r\n" in changed.wire("k")
    assert b"X-A" not in changed.wire("k")
    assert expand("\u27e83 times [\u27e9\u27e8U+FF11\u27e9", names) == b"[[[\xef\xbc\x91"
    assert row.is_answered_by("cut anything here.")
    assert not row.is_answered_by("cut anything here?")
