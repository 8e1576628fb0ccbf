"""`/api/v1/deliveries`: one delivery with its attempts."""

from typing import Final

from aiohttp import web

from api.actions.read_history import ReadHistory
from api.answers import json_answer
from api.front import PRINCIPAL
from api.pages import check_parameters

PATH: Final = "/api/v1/deliveries"


class DeliveryRoutes:
    """Handlers of deliveries."""

    def __init__(self, history: ReadHistory) -> None:
        self._history = history

    def table(self) -> list[web.RouteDef]:
        """Returns the routes."""
        return [web.get(PATH + "/{delivery_id}", self.read)]

    async def read(self, request: web.Request) -> web.Response:
        """200 with the delivery and every recorded attempt."""
        check_parameters(request.query, "tenant_id")
        tenant_id = request[PRINCIPAL].tenant_of_read(request.query.get("tenant_id"), "delivery")
        return json_answer(await self._history.delivery(tenant_id, request.match_info["delivery_id"]))
