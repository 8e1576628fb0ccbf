"""`/api/v1/webhooks/endpoints`: create, read, list, change, delete, and the actions on one."""

from typing import Final

from aiohttp import web

from api.actions.endpoint_actions import EndpointActions
from api.actions.endpoint_status import StatusAction
from api.actions.list_endpoints import EndpointFilter, list_endpoints, normal_form_of
from api.answers import json_answer
from api.bodies import MERGE_PATCH, parse_object, read_body, read_no_fields, read_optional_body, validate
from api.endpoint_view import EndpointView
from api.entity_tags import HEADER as IF_MATCH
from api.entity_tags import Precondition, parse_if_match
from api.front import PRINCIPAL
from api.idempotency_key import HEADER as IDEMPOTENCY_KEY
from api.pages import check_parameters, choice_of, cursor_of, page_of
from api.problems import ProblemError
from api.routes.events import PATH as EVENTS_PATH
from schemas.endpoint import Endpoint, EndpointStatus
from schemas.problem_codes import ProblemCode
from schemas.rest.endpoint import CreateEndpoint, RotateSecret, SendTest, answer_of, etag_of

PATH: Final = "/api/v1/webhooks/endpoints"
ONE: Final = PATH + "/{endpoint_id}"
LIST_NAME: Final = "endpoints"


class EndpointRoutes:
    """Handlers of endpoints."""

    def __init__(self, actions: EndpointActions, view: EndpointView) -> None:
        self._actions = actions
        self._view = view

    def table(self) -> list[web.RouteDef]:
        """Returns the routes."""
        return [
            web.post(PATH, self.create),
            web.get(PATH, self.list),
            web.get(ONE, self.read),
            web.patch(ONE, self.change),
            web.delete(ONE, self.delete),
            *[web.post(f"{ONE}/{action}", self.set_status) for action in StatusAction],
            web.post(ONE + "/verify", self.verify),
            web.post(ONE + "/test", self.test),
            web.post(ONE + "/secret/rotate", self.rotate),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """201 with the endpoint and, this once, its secret."""
        check_parameters(request.query)
        _refuse_key(request)
        body = validate(CreateEndpoint, parse_object(await read_body(request)))
        created = await self._actions.creates.create(request[PRINCIPAL], body)
        endpoint = created.endpoint
        return self._answer(endpoint, 201, created.secret, {"Location": f"{PATH}/{endpoint.id}"})

    async def list(self, request: web.Request) -> web.Response:
        """200 with a page of endpoints, oldest first."""
        query = request.query
        check_parameters(query, "tenant_id", "status", "event_type", "url", "limit", "cursor")
        tenant_id = request[PRINCIPAL].tenant_of_list(query.get("tenant_id"))
        status = choice_of(query, "status", EndpointStatus)
        wanted = EndpointFilter(tenant_id, status, query.get("event_type"), normal_form_of(query.get("url")))
        listed = (LIST_NAME, repr(wanted))
        page = await list_endpoints(self._view, wanted, page_of(query, *listed))
        now_ms = self._actions.clock_ms()
        next_cursor = None if page.after is None else cursor_of(page.after, *listed)
        data = [answer_of(endpoint, now_ms) for endpoint in page.endpoints]
        return json_answer({"data": data, "next_cursor": next_cursor})

    async def read(self, request: web.Request) -> web.Response:
        """200 with the endpoint, never its secret."""
        return self._answer(self._actions.writer.read(*self._named(request)))

    async def change(self, request: web.Request) -> web.Response:
        """200 with the endpoint as the merge patch leaves it."""
        endpoint_id, tenant_id = self._named(request)
        patch = parse_object(await read_body(request, MERGE_PATCH))
        changed = await self._actions.changes.change(
            request[PRINCIPAL], endpoint_id, tenant_id, _precondition(request), patch
        )
        return self._answer(changed)

    async def delete(self, request: web.Request) -> web.Response:
        """204; what waits for the endpoint is cancelled within seconds."""
        await self._actions.writer.delete(*self._named(request), _precondition(request))
        return web.Response(status=204)

    async def set_status(self, request: web.Request) -> web.Response:
        """200 with the endpoint, paused, resumed, disabled or enabled."""
        action = StatusAction(request.path.rpartition("/")[2])
        named = self._named(request)
        await read_no_fields(request)
        return self._answer(await self._actions.set_status(*named, _precondition(request), action))

    async def verify(self, request: web.Request) -> web.Response:
        """200 with the endpoint once its receiver has answered a verification."""
        named = self._named(request)
        await read_no_fields(request)
        return self._answer(await self._actions.verifies.verify(*named, _precondition(request)))

    async def test(self, request: web.Request) -> web.Response:
        """202 with a test event that goes to this endpoint and to no other."""
        named = self._named(request)
        _refuse_key(request)
        body = validate(SendTest, await read_optional_body(request))
        answer = await self._actions.send_test(*named, body)
        return json_answer(answer, 202, {"Location": f"{EVENTS_PATH}/{answer.id}"})

    async def rotate(self, request: web.Request) -> web.Response:
        """200 with the endpoint and, this once, its new secret."""
        named = self._named(request)
        _refuse_key(request)
        body = validate(RotateSecret, await read_optional_body(request))
        rotated = await self._actions.rotates.rotate(*named, _precondition(request), body)
        return self._answer(rotated.endpoint, 200, rotated.secret)

    def _named(self, request: web.Request) -> tuple[str, str | None]:
        """Returns the endpoint's id, and the tenant that it must belong to."""
        check_parameters(request.query, "tenant_id")
        tenant_id = request[PRINCIPAL].tenant_of_read(request.query.get("tenant_id"), "endpoint")
        return request.match_info["endpoint_id"], tenant_id

    def _answer(
        self,
        endpoint: Endpoint,
        status: int = 200,
        secret: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        shown = answer_of(endpoint, self._actions.clock_ms(), secret)
        return json_answer(shown, status, {"ETag": etag_of(endpoint), **(headers or {})})


def _precondition(request: web.Request) -> Precondition:
    return parse_if_match(request.headers.getall(IF_MATCH, []))


def _refuse_key(request: web.Request) -> None:
    """Refuses an `Idempotency-Key`: to answer a repeat, the first answer's secret would have to be kept.

    A caller who sends one relies on it, so it is not ignored. Other changes may be repeated as they are.
    """
    if IDEMPOTENCY_KEY in request.headers:
        detail = (
            f"{IDEMPOTENCY_KEY} is for POST {EVENTS_PATH} only. After a lost answer list the endpoints by"
            " url: delete the one whose secret you never saw, or rotate its secret."
        )
        raise ProblemError(ProblemCode.BAD_HEADER, detail)
