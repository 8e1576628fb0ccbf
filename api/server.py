"""Serving the application: the server's settings, in one place, on a socket that the caller may choose.

Connections have an upper bound: whoever opens more than there are descriptors for would take them from the
stores and the sender. One above the bound is closed as it is accepted; accepting goes on, because a backlog
that nobody empties would look like a dead process.
"""

import asyncio
import logging
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

_KEEPALIVE_S: Final = 75.0
"""Longer than the 60 s of common proxies, so that they close idle connections and not we, under a request."""
_SHUTDOWN_S: Final = 5.0
_BACKLOG: Final = 1_024
CONNECTIONS_MAX: Final = 4_096


class _NotHttp(logging.Filter):
    """Drops what aiohttp logs about bytes that are no HTTP: whoever can connect could fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keeps everything else."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


_server_log = logging.getLogger("hooktide.api.server")
_server_log.addFilter(_NotHttp())


class _Refusal(asyncio.Protocol):
    """Closes a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Gives its descriptor back at once."""
        transport.close()


class _BoundedSite(web.BaseSite):
    """A TCP site that takes no more connections than it may.

    Args:
        connections_max: open at once, idle ones too.
    """

    def __init__(self, runner: web.AppRunner, host: str, port: int, connections_max: int) -> None:
        super().__init__(runner)
        self._host = host
        self._port = port
        self._connections_max = connections_max

    @property
    def name(self) -> str:
        """The address, for people."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listens."""
        await super().start()
        self._server = await asyncio.get_running_loop().create_server(
            self._protocol, self._host, self._port, backlog=_BACKLOG, reuse_address=True
        )

    def _protocol(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None, "set up before it was started"
        return server() if len(server.connections) < self._connections_max else _Refusal()


async def start_server(
    app: web.Application, host: str, port: int, *, connections_max: int = CONNECTIONS_MAX
) -> tuple[web.AppRunner, int]:
    """Starts to serve on the running loop; returns the runner (`cleanup()` stops it) and the port taken.

    Handlers are not cancelled when a client goes away: a publish that the log is about to acknowledge is
    finished, and its answer remembered for the retry that will come.

    Raises:
        OSError: the port is taken.
    """
    runner = web.AppRunner(
        app,
        logger=_server_log,
        access_log=None,  # a line per request costs more than the request; `/metrics` counts them
        handler_cancellation=False,
        keepalive_timeout=_KEEPALIVE_S,
        shutdown_timeout=_SHUTDOWN_S,
    )
    await runner.setup()
    try:
        await _BoundedSite(runner, host, port, connections_max).start()
    except OSError:
        await runner.cleanup()
        raise
    name = runner.addresses[0]
    taken = name[1] if isinstance(name, tuple) else port
    return runner, int(taken)
