"""`/api/v1/events`: publish, list, read back, and the deliveries that came of it."""

from typing import Final

import msgspec
from aiohttp import web

from api.actions.list_deliveries import EVENT_PARAMETERS, ListHistory
from api.actions.publish_event import PublishEvents, digest_of
from api.actions.read_history import LIST_NAME, ReadHistory
from api.answers import json_answer
from api.bodies import read_body
from api.front import PRINCIPAL
from api.idempotency import IdempotencyGate
from api.idempotency_key import HEADER, REPLAYED_HEADER, parse_key
from api.metrics import ApiMetrics
from api.pages import check_parameters, page_of
from schemas.event import Event

PATH: Final = "/api/v1/events"
_encode = msgspec.json.Encoder().encode


class EventRoutes:
    """Handlers of events."""

    def __init__(
        self,
        publishes: PublishEvents,
        gate: IdempotencyGate,
        history: ReadHistory,
        lists: ListHistory,
        metrics: ApiMetrics,
    ) -> None:
        self._publishes = publishes
        self._gate = gate
        self._history = history
        self._lists = lists
        self._metrics = metrics

    def table(self) -> list[web.RouteDef]:
        """Returns the routes."""
        return [
            web.post(PATH, self.publish),
            web.get(PATH, self.list),
            web.get(PATH + "/{event_id}", self.read),
            web.get(PATH + "/{event_id}/deliveries", self.deliveries),
        ]

    async def publish(self, request: web.Request) -> web.Response:
        """202 with the event's id once the log holds it."""
        if request.query_string:
            check_parameters(request.query)
        key = parse_key(request.headers.getall(HEADER, []))
        event = self._publishes.event_of(request[PRINCIPAL], key, await read_body(request))
        headers = {"Location": f"{PATH}/{event.id}"}
        if key is None:
            return json_answer(await self._append(event), 202, headers)

        answer, is_replayed = await self._gate.run_once(
            event.tenant_id, key, digest_of(event), lambda: self._append(event)
        )
        if is_replayed:
            self._metrics.replayed.inc()
            headers[REPLAYED_HEADER] = "true"
        return json_answer(answer, 202, headers)

    async def list(self, request: web.Request) -> web.Response:
        """200 with a page of events, newest first, without their data."""
        check_parameters(request.query, *EVENT_PARAMETERS)
        tenant_id = request[PRINCIPAL].tenant_of_list(request.query.get("tenant_id"))
        return json_answer(await self._lists.events(tenant_id, request.query))

    async def read(self, request: web.Request) -> web.Response:
        """200 with the event and its data."""
        check_parameters(request.query, "tenant_id")
        tenant_id = request[PRINCIPAL].tenant_of_read(request.query.get("tenant_id"), "event")
        return json_answer(await self._history.event(tenant_id, request.match_info["event_id"]))

    async def deliveries(self, request: web.Request) -> web.Response:
        """200 with a page of the event's deliveries."""
        check_parameters(request.query, "tenant_id", "limit", "cursor")
        tenant_id = request[PRINCIPAL].tenant_of_read(request.query.get("tenant_id"), "event")
        event_id = request.match_info["event_id"]
        page = page_of(request.query, LIST_NAME, event_id)
        return json_answer(await self._history.deliveries(tenant_id, event_id, page))

    async def _append(self, event: Event) -> bytes:
        return _encode(await self._publishes.append(event))
