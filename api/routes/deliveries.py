"""`/api/v1/deliveries`: a list, one delivery with its attempts, and the actions on one."""

from typing import Final

from aiohttp import web

from api.actions.command_delivery import CommandDeliveries
from api.actions.list_deliveries import DELIVERY_PARAMETERS, ListHistory
from api.actions.read_history import ReadHistory
from api.answers import json_answer
from api.bodies import read_optional_body, validate
from api.front import PRINCIPAL
from api.idempotency_key import HEADER, REPLAYED_HEADER, parse_key
from api.pages import check_parameters
from schemas.rest.delivery import NoFields, RetryDelivery

PATH: Final = "/api/v1/deliveries"
ONE: Final = PATH + "/{delivery_id}"


class DeliveryRoutes:
    """Handlers of deliveries."""

    def __init__(self, history: ReadHistory, lists: ListHistory, commands: CommandDeliveries) -> None:
        self._history = history
        self._lists = lists
        self._commands = commands

    def table(self) -> list[web.RouteDef]:
        """Returns the routes."""
        return [
            web.get(PATH, self.list),
            web.get(ONE, self.read),
            web.post(ONE + "/retry", self.retry),
            web.post(ONE + "/cancel", self.cancel),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """200 with a page of deliveries, newest first."""
        check_parameters(request.query, *DELIVERY_PARAMETERS)
        tenant_id = request[PRINCIPAL].tenant_of_list(request.query.get("tenant_id"))
        return json_answer(await self._lists.deliveries(tenant_id, request.query))

    async def read(self, request: web.Request) -> web.Response:
        """200 with the delivery and every recorded attempt."""
        delivery_id, tenant_id = _named(request)
        return json_answer(await self._history.delivery(tenant_id, delivery_id))

    async def retry(self, request: web.Request) -> web.Response:
        """202: a waiting delivery is sent now, an ended one is sent again as a new delivery."""
        delivery_id, tenant_id = _named(request)
        key = parse_key(request.headers.getall(HEADER, []))
        body = validate(RetryDelivery, await read_optional_body(request))
        answer, is_repeat = await self._commands.retry(request[PRINCIPAL], tenant_id, delivery_id, body, key)
        headers = {"Location": f"{PATH}/{answer.id}"}
        if is_repeat:
            headers[REPLAYED_HEADER] = "true"
        return json_answer(answer, 202, headers)

    async def cancel(self, request: web.Request) -> web.Response:
        """202: the delivery is cancelled, within seconds or when the attempt in flight fails."""
        delivery_id, tenant_id = _named(request)
        validate(NoFields, await read_optional_body(request))
        answer = await self._commands.cancel(request[PRINCIPAL], tenant_id, delivery_id)
        return json_answer(answer, 202, {"Location": f"{PATH}/{answer.id}"})


def _named(request: web.Request) -> tuple[str, str | None]:
    """Returns the delivery's id, and the tenant that it must belong to."""
    check_parameters(request.query, "tenant_id")
    tenant_id = request[PRINCIPAL].tenant_of_read(request.query.get("tenant_id"), "delivery")
    return request.match_info["delivery_id"], tenant_id
