"""Serving the application: the server's settings, in one place, on a socket that the caller may choose."""

import logging
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

_KEEPALIVE_S: Final = 75.0
"""Longer than the 60 s of common proxies, so that they close idle connections and not we, under a request."""
_SHUTDOWN_S: Final = 5.0
_BACKLOG: Final = 1_024


class _NotHttp(logging.Filter):
    """Drops what aiohttp logs about bytes that are no HTTP: whoever can connect could fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keeps everything else."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


_server_log = logging.getLogger("hooktide.api.server")
_server_log.addFilter(_NotHttp())


async def start_server(app: web.Application, host: str, port: int) -> tuple[web.AppRunner, int]:
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
        site = web.TCPSite(runner, host, port, backlog=_BACKLOG, reuse_address=True)
        await site.start()
    except OSError:
        await runner.cleanup()
        raise
    name = runner.addresses[0]
    taken = name[1] if isinstance(name, tuple) else port
    return runner, int(taken)
