"""Verification over the API: a real signed POST, the error code of each way to fail, limits, and races."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from standardwebhooks import Webhook

from api.actions.ask_receiver import AskReceiver
from api.actions.verification_limits import VerificationLimits
from api.actions.verify_endpoint import VerifyEndpoints
from api.auth import ADMIN, Principal
from api.problems import ProblemError
from dataflows.connectors.key_ring import KeyRing
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from dataflows.connectors.sender.resolver import Resolver
from schemas.endpoint import MINUTE_MS, Endpoint
from schemas.settings import ApiSettings, EgressSettings, Settings
from schemas.topics import ENDPOINTS
from tests.conformance.scripted_server import OK, Handler, Peer, ScriptedServer, answer
from tests.conformance.sender_contract import free_port, server_tls
from tests.integration.api_world import (
    ENDPOINTS_PATH,
    MASTER_KEY,
    Answer,
    ApiWorld,
    open_log,
    unread_delivery_log,
    unused_store,
)

WAIT_S = 10.0
NAMES = {
    "receiver.example": "127.0.0.1",
    "metadata.example": "169.254.169.254",
    "inside.example": "10.1.2.3",
    "half.example": "93.184.216.34 10.1.2.3",
    "slow.example": "silent",
    "broken.example": "broken",
}


@dataclass
class Receiver:
    """A scripted receiver and an API that can reach it; a new API over the same log with `start_again`."""

    server: ScriptedServer
    log: LocalLog
    api: ApiSettings
    allow_private: bool
    authority: ssl.SSLContext | None = None

    @asynccontextmanager
    async def world(self) -> AsyncIterator[ApiWorld]:
        sender = open_aiohttp_sender(
            EgressPolicy(allow_private=self.allow_private),
            tls=self.authority,
            make_resolver=lambda: Resolver(
                time.monotonic, nameservers=[self.server.nameserver], lookup_timeout_s=0.3
            ),
        )
        egress = EgressSettings(allow_private_networks=self.allow_private)
        settings = Settings(api=self.api, egress=egress)
        try:
            world = ApiWorld(self.log, unread_delivery_log(), unused_store(), settings, probe_sender=sender)
            async with world.running():
                yield world
        finally:
            await asyncio.to_thread(sender.close, 0.0)


MakeReceiver = Callable[..., Receiver]


@pytest.fixture
async def make_receiver(tmp_path: Path) -> AsyncIterator[MakeReceiver]:
    servers: list[ScriptedServer] = []
    log = open_log(tmp_path / "log")

    def make(
        handler: Handler,
        *,
        allow_private: bool = True,
        tls: ssl.SSLContext | None = None,
        authority: ssl.SSLContext | None = None,
        **api: Any,  # noqa: ANN401 - fields of ApiSettings
    ) -> Receiver:
        servers.append(ScriptedServer(handler, tls, dict(NAMES)).__enter__())
        return Receiver(servers[-1], log, ApiSettings(**api), allow_private, authority)

    yield make
    for server in servers:
        await asyncio.to_thread(server.__exit__)
    log.close()


def always(*raw: bytes) -> Handler:
    """Returns a handler that gives these answers in turn, the last one for ever, on any connection."""
    left = list(raw)

    async def handle(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(left.pop(0) if len(left) > 1 else left[0])

    return handle


async def create(world: ApiWorld, url: str, **more: object) -> Answer:
    body = {"tenant_id": "acme", "url": url, "event_types": ["*"], **more}
    return await world.ask("POST", ENDPOINTS_PATH, json=body)


async def read_until(
    world: ApiWorld, endpoint_id: str, state: str, error_code: str | None = None
) -> dict[str, Any]:
    """Reads the endpoint until its verification is in that state, with that error."""
    async with asyncio.timeout(WAIT_S):
        while True:
            endpoint: dict[str, Any] = (await world.ask("GET", f"{ENDPOINTS_PATH}/{endpoint_id}")).json
            verification = endpoint["verification"]
            if verification["state"] == state and error_code in (None, verification["error_code"]):
                return endpoint
            await asyncio.sleep(0.005)


async def seen(server: ScriptedServer, count: int) -> None:
    """Waits until the receiver has had so many requests."""
    async with asyncio.timeout(WAIT_S):
        while len(server.seen) < count:  # noqa: ASYNC110 - it is another thread's
            await asyncio.sleep(0.005)


async def test_sync_is_the_default_and_asks_with_a_real_signed_request(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(always(OK))
    async with receiver.world() as world:
        created = await create(world, receiver.server.url(), headers={"X-Own": "yes"})
        assert created.status == 201, created.body
        assert created.json["status"] == "active"
        assert created.json["verification"]["state"] == "verified"
        (request,) = receiver.server.seen
        headers = {name.lower(): value for name, value in request.headers}
        payload = Webhook(created.json["secret"]).verify(request.body, headers)
    assert payload["type"] == "endpoint.verification"
    assert payload["data"] == {"endpoint_id": created.json["id"]}
    assert payload["id"] == headers["webhook-id"]
    assert headers["x-own"] == "yes"


REDIRECT = "Location: /elsewhere"
ANSWERS = [
    (answer(400), {}, "status_400"),
    (answer(401), {}, "status_401"),
    (answer(410), {}, "status_410"),
    (answer(429), {}, "status_429"),
    (answer(500), {}, "status_500"),
    (answer(503), {}, "status_503"),
    (answer(307, REDIRECT), {"redirects": "fail"}, "redirect_refused"),
    (answer(307, REDIRECT), {}, "redirect_refused"),  # of the second hop
    (answer(303, REDIRECT), {}, "redirect_refused"),
    (b"HTTP/1.1 banana\r\n\r\n", {}, "protocol_error"),
]


@pytest.mark.parametrize(("raw", "more", "code"), ANSWERS, ids=lambda value: str(value)[:30])
async def test_whatever_is_no_2xx_fails_the_registration_with_its_code(
    make_receiver: MakeReceiver, raw: bytes, more: dict[str, object], code: str
) -> None:
    receiver = make_receiver(always(raw))
    async with receiver.world() as world:
        refused = await create(world, receiver.server.url(), **more)
        assert (refused.status, refused.code) == (422, "endpoint_unreachable"), refused.body
        problem = refused.json
        assert problem["attempt"]["error_code"] == code, problem
        assert [(error["pointer"], error["code"]) for error in problem["errors"]] == [("/url", code)]
        assert "endpoint.verification" in problem["detail"]
        assert world.records(ENDPOINTS.name) == [], "nothing is written before the receiver agreed"


async def hang(peer: Peer) -> None:
    await peer.request()
    await peer.until_closed()


async def reset(peer: Peer) -> None:
    await peer.request()
    peer.reset()


@pytest.mark.parametrize(
    ("handler", "url", "code"),
    [
        (hang, "http://127.0.0.1:{port}/", "timeout"),
        (reset, "http://127.0.0.1:{port}/", "connection_reset"),
        (hang, "http://127.0.0.1:{free}/", "connect_refused"),
        (hang, "http://nobody.example/", "dns_not_found"),
        (hang, "http://slow.example/", "dns_timeout"),
        (hang, "http://broken.example/", "dns_failure"),
    ],
)
async def test_whatever_gets_no_answer_fails_the_registration_with_its_code(
    make_receiver: MakeReceiver, handler: Handler, url: str, code: str
) -> None:
    receiver = make_receiver(handler)
    target = url.format(port=receiver.server.port, free=free_port())
    async with receiver.world() as world:
        refused = await create(world, target, timeout_ms=700)
        assert refused.code == "endpoint_unreachable", refused.body
        assert refused.json["attempt"] == {"status": None, "error_code": code}


async def test_a_certificate_that_nobody_vouches_for_and_one_for_another_name(
    make_receiver: MakeReceiver,
) -> None:
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server_side = server_tls(authority, "receiver.example")
    codes = []
    for known, host in ((None, "receiver.example"), (trusting, "127.0.0.1"), (trusting, "receiver.example")):
        receiver = make_receiver(always(OK), tls=server_side, authority=known)
        async with receiver.world() as world:
            made = await create(world, receiver.server.url(host=host))
            codes.append(made.json["attempt"]["error_code"] if made.status == 422 else made.status)
    assert codes == ["tls_certificate", "tls_certificate", 201]


async def test_our_guard_says_one_sentence_wherever_a_name_leads(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(always(OK), allow_private=False)
    answers = set()
    async with receiver.world() as world:
        for host in ("receiver.example", "metadata.example", "inside.example", "half.example"):
            refused = await create(world, f"https://{host}/hook")
            assert (refused.status, refused.code) == (422, "url_not_allowed"), refused.body
            problem = refused.json
            del problem["request_id"]
            answers.add(json.dumps(problem))
    assert receiver.server.connection_count == 0
    (only,) = answers
    for word in ("127.", "169.", "10.1", "loopback", "private", "metadata", "attempt", "refused", "closed"):
        assert word not in only


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://metadata.example/latest", "url_not_allowed"),
        ("http://169.254.169.254/latest", "endpoint_unreachable"),  # its own words: nothing was looked up
    ],
)
async def test_a_redirect_to_the_inside_is_refused_without_saying_what_is_there(
    make_receiver: MakeReceiver, location: str, code: str
) -> None:
    receiver = make_receiver(always(answer(307, f"Location: {location}")))
    async with receiver.world() as world:
        refused = await create(world, receiver.server.url())
    assert (refused.status, refused.code) == (422, code), refused.body
    if code == "url_not_allowed":
        assert b"169.254" not in refused.body
        assert "attempt" not in refused.json
    else:
        assert refused.json["attempt"]["error_code"] == "redirect_refused"


async def test_verifications_are_limited_per_tenant_and_per_host(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(always(OK), verifications_per_minute_tenant=2, verifications_per_minute_host=3)
    async with receiver.world() as world:
        url = receiver.server.url()
        assert [(await create(world, url)).status for _ in range(2)] == [201, 201]
        for limited in (
            await create(world, url),
            await create(world, url.replace("127.0.0.1", "receiver.example")),
        ):
            assert (limited.status, limited.code) == (429, "rate_limited")
            assert 1 <= int(limited.headers["Retry-After"]) <= 60
            assert "tenant" in limited.json["detail"]
        assert (await create(world, url, tenant_id="b")).status == 201
        limited = await create(world, url, tenant_id="c")
        assert limited.code == "rate_limited"
        assert "host" in limited.json["detail"]
        assert (
            await create(world, url.replace("127.0.0.1", "receiver.example"), tenant_id="c")
        ).status == 201
        assert (await create(world, url, verification="skip")).status == 201
    assert len(receiver.server.seen) == 4


def test_the_window_moves_and_old_names_are_forgotten() -> None:
    now = [1_000_000]
    limits = VerificationLimits(
        ApiSettings(verifications_per_minute_tenant=2, verifications_per_minute_host=1_000), lambda: now[0]
    )

    def hit(tenant_id: str = "t", host: str = "h") -> str | None:
        try:
            limits.hit(_endpoint(tenant_id, f"https://{host}/"))
        except ProblemError as problem:
            return problem.headers["Retry-After"]
        return None

    assert hit() is None
    now[0] += 10_500
    assert hit() is None
    assert hit() == "50"
    now[0] += 49_499
    assert hit() == "1"
    now[0] += 1
    assert hit() is None, "the first one is a minute old"
    now[0] -= 30_000
    assert hit() is None, "a clock that was set back locks nobody out"
    now[0] += 10 * MINUTE_MS
    for number in range(5_000):
        assert hit(f"t{number}", f"h{number}") is None
        now[0] += 100
    assert len(limits._sent) < 3_000


async def test_async_registers_at_once_and_releases_when_the_receiver_answers(
    make_receiver: MakeReceiver,
) -> None:
    receiver = make_receiver(always(answer(500), OK), verification_delays_ms=(0, 50, 50))
    async with receiver.world() as world:
        created = await create(world, receiver.server.url(), verification="async")
        assert created.status == 201
        assert (created.json["status"], created.json["verification"]["state"]) == ("unverified", "pending")
        assert (await world.publish()).json["matched_endpoints"] == 1, "events match, and are held"
        verified = await read_until(world, created.json["id"], "verified")
    assert verified["status"] == "active"
    assert len(receiver.server.seen) == 2


async def test_async_gives_up_after_the_last_try_and_a_person_may_ask_again(
    make_receiver: MakeReceiver,
) -> None:
    receiver = make_receiver(
        always(answer(500), answer(404), answer(502), answer(503), OK), verification_delays_ms=(0, 10, 10)
    )
    async with receiver.world() as world:
        created = (await create(world, receiver.server.url(), verification="async")).json
        path = f"{ENDPOINTS_PATH}/{created['id']}"
        failed = await read_until(world, created["id"], "failed")
        assert (failed["status"], failed["verification"]["error_code"]) == ("unverified", "status_502")
        for action in ("resume", "enable", "pause"):
            assert (await world.ask("POST", f"{path}/{action}")).code == "wrong_state"
        for action in ("disable", "enable"):
            assert (await world.ask("POST", f"{path}/{action}")).status == 200
        assert (await world.ask("GET", path)).json["status"] == "unverified", "no way round"
        refused = await world.ask("POST", f"{path}/verify")
        assert (refused.code, refused.json["attempt"]["error_code"]) == ("endpoint_unreachable", "status_503")
        verified = await world.ask("POST", f"{path}/verify")
        assert (verified.status, verified.json["status"]) == (200, "active")
    assert len(receiver.server.seen) == 5


async def test_a_restart_goes_on_with_what_was_pending(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(always(answer(500), OK), verification_delays_ms=(0, 300, 300))
    async with receiver.world() as world:
        created = (await create(world, receiver.server.url(), verification="async")).json
        await read_until(world, created["id"], "pending", "status_500")
    assert len(receiver.server.seen) == 1, "it was stopped between two tries"
    async with receiver.world() as world:
        verified = await read_until(world, created["id"], "verified")
    assert verified["status"] == "active"
    assert len(receiver.server.seen) == 2, "the tries before count"


async def test_deleting_ends_the_tries(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(always(answer(500)), verification_delays_ms=(0, 500, 3_600_000))
    async with receiver.world() as world:
        created = (await create(world, receiver.server.url(), verification="async")).json
        await read_until(world, created["id"], "pending", "status_500")
        assert (await world.ask("DELETE", f"{ENDPOINTS_PATH}/{created['id']}")).status == 204
        count = len(receiver.server.seen)
        # The second try of this later one comes after that of the deleted one would have come.
        other = (await create(world, receiver.server.url(), verification="async")).json
        await seen(receiver.server, count + 2)
    asked = [json.loads(one.body)["data"]["endpoint_id"] for one in receiver.server.seen[count:]]
    assert asked == [other["id"]] * 2


async def test_a_new_url_is_verified_before_it_is_used(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(always(OK, answer(500), OK))
    async with receiver.world() as world:
        created = (await create(world, receiver.server.url("/one"))).json
        path = f"{ENDPOINTS_PATH}/{created['id']}"
        new = receiver.server.url("/two")
        refused = await world.ask("PATCH", path, json={"url": new, "description": "x"})
        assert refused.code == "endpoint_unreachable"
        assert (await world.ask("GET", path)).headers["ETag"] == '"1-active"', "nothing of it was written"
        changed = await world.ask("PATCH", path, json={"url": new})
        assert (changed.status, changed.json["url"], changed.json["status"]) == (200, new, "active")
        untouched = await world.ask("PATCH", path, json={"url": new, "description": "y"})
        assert untouched.status == 200
    assert [one.line.split()[1] for one in receiver.server.seen] == ["/one", "/two", "/two"]


async def test_a_new_url_with_async_holds_events_until_it_answers(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(always(answer(500), OK), verification_delays_ms=(0, 3_600_000))
    async with receiver.world() as world:
        created = (await create(world, receiver.server.url("/one"), verification="skip")).json
        path = f"{ENDPOINTS_PATH}/{created['id']}"
        await world.ask("POST", f"{path}/pause")
        moved = await world.ask(
            "PATCH", path, json={"url": receiver.server.url("/two"), "verification": "async"}
        )
        assert (moved.json["status"], moved.json["verification"]["state"]) == ("paused", "pending")
        assert (await world.ask("POST", f"{path}/resume")).json["status"] == "unverified", "no way round"
        await seen(receiver.server, 1)
        # The next try of /two is an hour away; another URL is asked at once.
        await world.ask("PATCH", path, json={"url": receiver.server.url("/three"), "verification": "async"})
        verified = await read_until(world, created["id"], "verified")
        assert (verified["status"], verified["url"]) == ("active", receiver.server.url("/three"))


async def test_an_operator_may_skip_what_is_still_unverified(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(always(answer(500)), verification_delays_ms=(0, 3_600_000))
    async with receiver.world() as world:
        created = (await create(world, receiver.server.url(), verification="async")).json
        path = f"{ENDPOINTS_PATH}/{created['id']}"
        skipped = await world.ask("PATCH", path, json={"verification": "skip"})
        assert (skipped.json["status"], skipped.json["verification"]["state"]) == ("active", "skipped")


class Gate:
    """A receiver that answers 200 when it is told to."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._open: asyncio.Event | None = None

    async def __call__(self, peer: Peer) -> None:
        self.loop, self._open = asyncio.get_running_loop(), self._open or asyncio.Event()
        await peer.request()
        await self._open.wait()
        await peer.say(OK)

    def open(self) -> None:
        assert self.loop is not None
        assert self._open is not None
        self.loop.call_soon_threadsafe(self._open.set)


async def test_edits_while_a_new_url_is_being_verified_are_kept(make_receiver: MakeReceiver) -> None:
    gate = Gate()
    receiver = make_receiver(gate)
    async with receiver.world() as world:
        created = await world.create_endpoint(description="first", url=receiver.server.url("/one"))
        path = f"{ENDPOINTS_PATH}/{created['id']}"
        new = receiver.server.url("/two")
        moving = asyncio.create_task(world.ask("PATCH", path, json={"url": new}))
        conditional = asyncio.create_task(
            world.ask("PATCH", path, json={"url": new + "/x"}, headers={"If-Match": '"1-active"'})
        )
        await seen(receiver.server, 2)
        assert (await world.ask("PATCH", path, json={"description": "meanwhile"})).status == 200
        assert (await world.ask("POST", f"{path}/pause")).status == 200
        gate.open()
        moved = await moving
        assert (moved.status, moved.json["url"]) == (200, new)
        assert (moved.json["description"], moved.json["status"]) == ("meanwhile", "paused")
        assert (await conditional).code == "version_conflict", "it was made from a version that is no more"


async def test_an_endpoint_deleted_while_it_is_being_verified_stays_deleted(
    make_receiver: MakeReceiver,
) -> None:
    gate = Gate()
    receiver = make_receiver(gate)
    async with receiver.world() as world:
        created = await world.create_endpoint(url=receiver.server.url("/one"))
        path = f"{ENDPOINTS_PATH}/{created['id']}"
        asked = [
            asyncio.create_task(world.ask("POST", f"{path}/verify")),
            asyncio.create_task(world.ask("PATCH", path, json={"url": receiver.server.url("/two")})),
        ]
        await seen(receiver.server, 2)
        assert (await world.ask("DELETE", path)).status == 204
        gate.open()
        assert [(await one).code for one in asked] == ["not_found", "not_found"]
        assert (await world.ask("GET", path)).status == 404


async def test_a_verification_of_the_old_url_says_nothing_about_the_new_one(
    make_receiver: MakeReceiver,
) -> None:
    gate = Gate()
    receiver = make_receiver(gate)
    async with receiver.world() as world:
        created = await world.create_endpoint(url=receiver.server.url("/one"))
        path = f"{ENDPOINTS_PATH}/{created['id']}"
        asking = asyncio.create_task(world.ask("POST", f"{path}/verify"))
        await seen(receiver.server, 1)
        await world.ask("PATCH", path, json={"url": receiver.server.url("/two"), "verification": "skip"})
        gate.open()
        assert (await asking).json["verification"]["state"] == "skipped"


async def test_a_stop_ends_a_verification_and_writes_nothing(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(hang)
    async with receiver.world() as world:
        creating = asyncio.create_task(create(world, receiver.server.url(), timeout_ms=30_000))
        await seen(receiver.server, 1)
        creating.cancel()
    async with receiver.world() as world:
        assert world.records(ENDPOINTS.name) == []


def test_a_tenants_key_cannot_skip() -> None:
    asks = AskReceiver(
        None,
        VerificationLimits(ApiSettings(), lambda: 0),
        KeyRing([MASTER_KEY]),
        user_agent="x",
        connect_timeout_ms=1,
        clock_ms=lambda: 0,
        wall_ms=lambda: 0,
        entropy=bytes,
    )
    verifies = VerifyEndpoints(asks, None, lambda: 0)  # type: ignore[arg-type]  # it is not asked
    assert verifies.policy_of(ADMIN, "skip") == "skip"
    with pytest.raises(ProblemError, match="cannot skip") as forbidden:
        verifies.policy_of(Principal(tenant_id="t"), "skip")
    assert forbidden.value.status == 403


def _endpoint(tenant_id: str, url: str) -> Endpoint:
    return Endpoint(
        id="ep_1",
        tenant_id=tenant_id,
        url=url,
        event_types=("*",),
        secrets=(),
        created_at_ms=1,
        updated_at_ms=1,
    )
