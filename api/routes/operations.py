"""`/livez`, `/readyz` and `/metrics`: for supervisors and Prometheus.

The first two are open and say words only: whoever can reach the port learns whether it works, not for whom.
Liveness depends on nothing, so that a supervisor does not restart us because something else is down.
"""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from api.pages import check_parameters


class OperationRoutes:
    """Handlers for whoever runs the process."""

    def __init__(self, readiness: Callable[[], list[str]], registry: CollectorRegistry) -> None:
        self._readiness = readiness
        self._registry = registry

    def table(self) -> list[web.RouteDef]:
        """Returns the routes; the names of the open ones stand in `api.front`."""
        return [
            web.get("/livez", self.livez, name="livez"),
            web.get("/readyz", self.readyz, name="readyz"),
            web.get("/metrics", self.metrics),
        ]

    async def livez(self, _: web.Request) -> web.Response:
        """200 while the event loop runs."""
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        """200 `ready`, or 503 with one word per line for each reason."""
        reasons = self._readiness()
        if reasons:
            return web.Response(status=503, text="\n".join(reasons) + "\n", headers={"Retry-After": "1"})
        return web.Response(text="ready\n")

    async def metrics(self, request: web.Request) -> web.Response:
        """200 with the text format of Prometheus."""
        check_parameters(request.query)
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
