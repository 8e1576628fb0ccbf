"""The real API on loopback, everything behind it real too; what the flow `record` does is a call here."""

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec
from aiohttp import ClientSession, web
from multidict import CIMultiDictProxy
from prometheus_client import CollectorRegistry

from api.app import build_app
from api.deps import ApiDeps
from api.server import Patience, start_server
from dataflows.connectors.delivery_log.port import DeliveryLog
from dataflows.connectors.delivery_log.recording import RECORDED_TOPICS, Recording
from dataflows.connectors.idempotency_store import IdempotencyStore
from dataflows.connectors.key_ring import KeyRing
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Entry, GroupOffset, Log, Record, TopicPartition
from dataflows.connectors.sender.port import Sender
from dataflows.connectors.table_view import TableView
from schemas.endpoint import DisabledReport, Endpoint
from schemas.event import Event
from schemas.settings import ApiSettings, EgressSettings, Settings
from schemas.topics import ALL_TOPICS, ENDPOINT_STATUS, ENDPOINTS, EVENTS, Spread
from schemas.wire.records import DISABLED_REPORT, ENDPOINT, decode_event

ADMIN_KEY = "hk_test-key"
AUTHORIZED = {"Authorization": f"Bearer {ADMIN_KEY}"}
ENDPOINTS_PATH = "/api/v1/webhooks/endpoints"
EVENTS_PATH = "/api/v1/events"
DELIVERIES_PATH = "/api/v1/deliveries"
PARTITIONS = {topic.name: 1 if topic.spread is Spread.ONE else 2 for topic in ALL_TOPICS}
RECORDED = tuple(topic.name for topic in RECORDED_TOPICS)
MASTER_KEY = bytes(range(32))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def open_log(directory: Path) -> LocalLog:
    return LocalLog.open(directory, partitions=PARTITIONS, clock_ms=now_ms, linger_ms=0.2)


def make_settings(*, allow_private: bool = True, append_timeout_ms: int = 2_000) -> Settings:
    return Settings(
        api=ApiSettings(append_timeout_ms=append_timeout_ms),
        egress=EgressSettings(allow_private_networks=allow_private),
    )


@dataclass(frozen=True)
class Answer:
    """What came back, read whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the API answers
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str | None:
        """The problem's code, None for what is no problem."""
        is_problem = self.headers.get("Content-Type") == "application/problem+json"
        return self.json["code"] if is_problem else None


@dataclass
class ApiWorld:
    """One running API and everything behind it."""

    log: Log
    delivery_log: DeliveryLog
    idempotency: IdempotencyStore
    settings: Settings = field(default_factory=make_settings)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    port: int = 0
    readiness: Callable[[], list[str]] = list
    session: ClientSession | None = None
    probe_sender: Sender | None = None
    patience: Patience | None = None
    has_reports: bool = False
    app: web.Application | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ApiWorld"]:
        view: TableView[Endpoint] = TableView(self.log, ENDPOINTS.name, ENDPOINT.decode)
        reports: TableView[DisabledReport] | None = None
        if self.has_reports:
            reports = TableView(self.log, ENDPOINT_STATUS.name, DISABLED_REPORT.decode)
        deps = ApiDeps(
            log=self.log,
            endpoints=view,
            delivery_log=self.delivery_log,
            key_ring=KeyRing([MASTER_KEY]),
            idempotency=self.idempotency,
            admin_key=ADMIN_KEY,
            settings=self.settings,
            clock_ms=now_ms,
            entropy=os.urandom,
            readiness=lambda: self.readiness(),  # noqa: PLW0108 - a test may set another one later
            registry=self.registry,
            probe_sender=self.probe_sender,
            endpoint_status=reports,
        )
        self.app = build_app(deps)
        runner, self.port = await start_server(self.app, "127.0.0.1", 0, self.patience)
        try:
            async with ClientSession(f"http://127.0.0.1:{self.port}") as self.session:
                yield self
        finally:
            await runner.cleanup()
            view.close()
            if reports is not None:
                reports.close()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        key: str | None = None,
        is_authorized: bool = True,
    ) -> Answer:
        """Sends one request; `json` or `body` goes as application/json unless `headers` say otherwise."""
        assert self.session is not None
        if json is not None:
            body = msgspec.json.encode(json)
        sent = dict(AUTHORIZED) if is_authorized else {}
        if body is not None:
            sent["Content-Type"] = "application/json"
        if key is not None:
            sent["Idempotency-Key"] = key
        sent.update(headers or {})
        async with self.session.request(method, path, data=body, headers=sent) as response:
            return Answer(response.status, response.headers, await response.read())

    async def create_endpoint(
        self, tenant_id: str = "acme", *patterns: str, **more: object
    ) -> dict[str, Any]:
        settings = {
            "tenant_id": tenant_id,
            "url": "https://example.com/hook",
            "event_types": patterns or ("*",),
            "verification": "skip",
        }
        answer = await self.ask("POST", ENDPOINTS_PATH, json=settings | more)
        assert answer.status == 201, answer.body
        created: dict[str, Any] = answer.json
        return created

    async def publish(self, *, key: str | None = None, **fields: object) -> Answer:
        body = {"tenant_id": "acme", "type": "order.created", "data": {"n": 1}} | fields
        return await self.ask("POST", EVENTS_PATH, json=body, key=key)

    def records(self, topic: str) -> list[Record]:
        """Returns every record of the topic, partition by partition."""
        found: list[Record] = []
        for partition in range(self.log.partition_count(topic)):
            of = TopicPartition(topic, partition)
            reader = self.log.reader({of: self.log.start(of)})
            while records := reader.poll(of, 1_000):
                found += records
            reader.close()
        return found

    def events(self) -> list[Event]:
        return [decode_event(record.value or b"") for record in self.records(EVENTS.name)]

    def append(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        self.log.append_and_wait(TopicPartition(topic, partition), [Entry(key, value)])

    def record(self, topics: Sequence[str] = RECORDED) -> None:
        """Does what the flow `record` does, once: everything new into the delivery log, then the commit."""
        recording = Recording(self.delivery_log, self.log.cluster_id)
        for topic in topics:
            for partition in range(self.log.partition_count(topic)):
                of = TopicPartition(topic, partition)
                committed = self.log.committed("record", of)
                offset = self.log.start(of) if committed is None else committed.offset
                reader = self.log.reader({of: offset})
                recording.start({of: offset})
                assert recording.write({of: reader.poll(of, 10_000)}) == []
                self.log.commit("record", {of: GroupOffset(reader.position(of), "")})
                reader.close()


class _NeverAsked:
    """Stands where a test must not come: every use of it fails."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"nobody should have asked for {name}")


def unread_delivery_log() -> DeliveryLog:
    """Returns a delivery log for tests in which nothing is read from it."""
    return cast("DeliveryLog", _NeverAsked())


def unused_store() -> IdempotencyStore:
    """Returns a store for tests in which nothing is accepted with a key."""
    return cast("IdempotencyStore", _NeverAsked())
