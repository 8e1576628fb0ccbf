"""Serving the application: the server's settings, in one place, on a socket that the caller may choose.

Whoever can connect can be slow or send anything, so everything has a bound: the head of a request in bytes,
in lines and in time, its body in bytes and in time. What is no HTTP never becomes a request, so it passes no
front; its answer is made here, in the same form as every other refusal.

Connections have an upper bound too: whoever opens more than there are descriptors for would take them from
the stores and the sender. One above the bound is closed as it is accepted; accepting goes on, because a
backlog that nobody empties would look like a dead process.

Rejected: aiohttp's own answer to bytes that are no HTTP (plain text that quotes them back), and a limit per
client (that is a proxy's job).
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy

from api.bodies import BODY_PATIENCE_DEFAULT_S, BODY_PATIENCE_S
from api.problems import ProblemError
from schemas.problem_codes import ProblemCode
from schemas.rest.problem import MEDIA_TYPE

LINE_BYTES_MAX: Final = 8_190
"""Of the request line, and of one header: what Apache and aiohttp take; nginx 8 KiB."""
HEADERS_MAX: Final = 100
"""Apache's number. A request of ours needs eight, proxies add some."""
_SHUTDOWN_S: Final = 5.0
_BACKLOG: Final = 1_024
CONNECTIONS_MAX: Final = 4_096


class Patience(Struct, frozen=True):
    """How long a client is waited for, in seconds.

    Attributes:
        head_s: from the connection, or the answer before, until the head of a request is whole. Longer than
            the 60 s of common proxies, so that they close idle connections and not we, under a request.
        body_s: for the whole body.
        linger_s: after an answer that came before the body did: a client that is still sending shall read it.
    """

    head_s: float = 75.0
    body_s: float = BODY_PATIENCE_DEFAULT_S
    linger_s: float = 5.0


class _NotHttp(logging.Filter):
    """Drops what aiohttp logs about bytes that are no HTTP: whoever can connect could fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keeps everything else."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


_server_log = logging.getLogger("hooktide.api.server")
_server_log.addFilter(_NotHttp())


class _Connection(web.RequestHandler):
    """A connection whose refusals have the form of every other refusal."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers bytes that are no HTTP (400, 431), and what escaped the front (500); then it closes."""
        super().handle_error(request, status, exc, message)  # logs, and raises when half an answer is out
        problem = _problem_of(exc) if isinstance(exc, HttpProcessingError) else _OUR_FAULT
        answer = web.Response(
            status=problem.status,
            body=problem.body(request_id=""),
            headers={"Content-Type": MEDIA_TYPE, "Server": "hooktide"},
        )
        answer.force_close()
        return answer


_OUR_FAULT: Final = ProblemError(ProblemCode.INTERNAL, "This is our fault; report when it happened.")


def _problem_of(error: HttpProcessingError) -> ProblemError:
    if isinstance(error, LineTooLong):
        detail = f"The request line or a header has more than {LINE_BYTES_MAX:,} bytes; shorten it."
        return ProblemError(ProblemCode.HEAD_TOO_LARGE, detail)
    if "Too many" in error.message:  # it has no class of its own
        detail = f"The request has more than {HEADERS_MAX} headers; leave some out."
        return ProblemError(ProblemCode.HEAD_TOO_LARGE, detail)
    detail = (
        "The bytes are no HTTP/1.1 request, or its headers contradict each other; send it as RFC 9112 says."
    )
    return ProblemError(ProblemCode.MALFORMED_HTTP, detail)


def _expecting_what_we_know(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Returns a maker of requests that leaves out an `Expect` which is not `100-continue`.

    aiohttp answers such a one before our front is asked, in plain text that quotes it, and with a 500 when it
    is no UTF-8. RFC 9110 section 10.1.1 lets a server pass over what it does not know.
    """

    def make_request(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:  # noqa: ANN401 - handed on
        expected = message.headers.get("Expect")
        if expected is not None and expected.lower() != "100-continue":
            headers = CIMultiDict(message.headers)
            headers.popall("Expect")
            message = message._replace(headers=CIMultiDictProxy(headers))
        return make(message, *rest)

    return make_request


class _Refusal(asyncio.Protocol):
    """Closes a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Gives its descriptor back at once."""
        transport.close()


class _Site(web.BaseSite):
    """Listens on TCP and makes our kind of connections."""

    __slots__ = ("_address", "_connections_max", "_settings")

    def __init__(
        self,
        runner: web.AppRunner,
        address: tuple[str, int],
        settings: dict[str, Any],
        connections_max: int,
    ) -> None:
        super().__init__(runner, backlog=_BACKLOG)
        self._address = address
        self._settings = settings
        self._connections_max = connections_max

    @property
    def name(self) -> str:
        """Where it listens, for messages."""
        return "http://{}:{}".format(*self._address)

    async def start(self) -> None:
        """Starts to listen."""
        await super().start()
        loop = asyncio.get_running_loop()
        server = self._runner.server
        assert server is not None
        server.request_factory = _expecting_what_we_know(server.request_factory)

        def connection() -> asyncio.Protocol:
            if len(server.connections) >= self._connections_max:
                return _Refusal()
            return _Connection(server, loop=loop, **self._settings)

        self._server = await loop.create_server(
            connection,
            *self._address,
            backlog=self._backlog,
            reuse_address=True,
        )


async def start_server(
    app: web.Application,
    host: str,
    port: int,
    patience: Patience | None = None,
    *,
    connections_max: int = CONNECTIONS_MAX,
) -> tuple[web.AppRunner, int]:
    """Starts to serve on the running loop; returns the runner (`cleanup()` stops it) and the port taken.

    Handlers are not cancelled when a client goes away: a publish that the log is about to acknowledge is
    finished, and its answer remembered for the retry that will come.

    Raises:
        OSError: the port is taken.
    """
    patience = patience or Patience()
    app[BODY_PATIENCE_S] = patience.body_s
    runner = web.AppRunner(app, handler_cancellation=False, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    settings = {
        "logger": _server_log,
        "access_log": None,  # a line per request costs more than the request; `/metrics` counts them
        "keepalive_timeout": patience.head_s,
        "lingering_time": patience.linger_s,
        "max_line_size": LINE_BYTES_MAX,
        "max_field_size": LINE_BYTES_MAX,
        "max_headers": HEADERS_MAX,
        "auto_decompress": False,  # compressed bodies are refused, so nobody shall unpack them first
    }
    try:
        await _Site(runner, (host, port), settings, connections_max).start()
    except OSError:
        await runner.cleanup()
        raise
    name = runner.addresses[0]
    taken = name[1] if isinstance(name, tuple) else port
    return runner, int(taken)
