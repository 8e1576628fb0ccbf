"""`/api/v1/webhooks/endpoints`: create and read."""

from typing import Final

from aiohttp import web

from api.actions.create_endpoint import CreateEndpoints
from api.answers import json_answer
from api.bodies import parse_object, read_body, validate
from api.endpoint_view import EndpointView
from api.front import PRINCIPAL
from api.pages import check_parameters
from api.problems import not_found
from schemas.rest.endpoint import CreateEndpoint, answer_of, etag_of

PATH: Final = "/api/v1/webhooks/endpoints"


class EndpointRoutes:
    """Handlers of endpoints."""

    def __init__(self, creates: CreateEndpoints, view: EndpointView) -> None:
        self._creates = creates
        self._view = view

    def table(self) -> list[web.RouteDef]:
        """Returns the routes."""
        return [web.post(PATH, self.create), web.get(PATH + "/{endpoint_id}", self.read)]

    async def create(self, request: web.Request) -> web.Response:
        """201 with the endpoint and, this once, its secret."""
        check_parameters(request.query)
        body = validate(CreateEndpoint, parse_object(await read_body(request)))
        created = await self._creates.create(request[PRINCIPAL], body)
        endpoint = created.endpoint
        headers = {"Location": f"{PATH}/{endpoint.id}", "ETag": etag_of(endpoint)}
        return json_answer(answer_of(endpoint, created.secret), 201, headers)

    async def read(self, request: web.Request) -> web.Response:
        """200 with the endpoint, never its secret."""
        check_parameters(request.query, "tenant_id")
        principal = request[PRINCIPAL]
        tenant_id = principal.tenant_of_read(request.query.get("tenant_id"), "endpoint")
        endpoint = self._view.get(request.match_info["endpoint_id"])
        if endpoint is None or (tenant_id is not None and endpoint.tenant_id != tenant_id):
            raise not_found("endpoint")
        return json_answer(answer_of(endpoint), headers={"ETag": etag_of(endpoint)})
