"""The front: the one middleware that every request passes. Ids, keys, problems, headers, counts.

One middleware and not five, because each costs a coroutine per request, and their order would be a rule of
its own. What a handler raises ends here: a `ProblemError` is an answer, `Unavailable` and `Refused` are a
503 that may be tried again, the server's own 404, 405 and 413 become problems too, and anything else is a 500
that says nothing but its request id, and one log line that says everything.
"""

import re
import time
import traceback
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

import structlog
from aiohttp import web

from api.auth import Authenticator, Principal
from api.metrics import UNKNOWN_ROUTE, ApiMetrics
from api.problems import ProblemError
from schemas.errors import Refused, Unavailable
from schemas.problem_codes import ProblemCode
from schemas.rest.problem import MEDIA_TYPE

PRINCIPAL: Final = web.RequestKey("principal", Principal)
OPEN_ROUTES: Final = frozenset({"livez", "readyz"})
REQUEST_ID_HEADER: Final = "X-Request-Id"

# no-store: answers hold customers' data. nosniff: a browser must not make a page of an event's data.
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "hooktide"}
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_RETRY_AFTER: Final = {"Retry-After": "1"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = structlog.stdlib.get_logger("hooktide.api")


class Front:
    """Everything between the server and a handler.

    Args:
        process_id: random text; with a counter it makes request ids, at a fraction of the cost of chance.
    """

    def __init__(self, authenticator: Authenticator, metrics: ApiMetrics, process_id: str) -> None:
        self._authenticator = authenticator
        self._metrics = metrics
        self._process_id = process_id
        self._numbers = count(1)

    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers one request, whatever happens."""
        started = time.perf_counter()
        request_id = self._id_of(request)
        route = request.match_info.route
        try:
            if route.name not in OPEN_ROUTES:
                authorization = request.headers.get("Authorization")
                request[PRINCIPAL] = self._authenticator.authenticate(authorization)
            response = await handler(request)
        except ProblemError as problem:
            response = _answer(problem, request_id)
        except web.HTTPException as error:
            response = _answer(_problem_of(error), request_id)
        except (Unavailable, Refused) as error:
            _log.warning("unavailable", request_id=request_id, path=request.path, error=str(error))
            detail = "Something we need is not there now; try again."
            response = _answer(ProblemError(ProblemCode.NOT_READY, detail, headers=_RETRY_AFTER), request_id)
        except (web.RequestPayloadError, ConnectionError):
            detail = "The body ended early or is framed wrongly; send it whole."
            response = _answer(ProblemError(ProblemCode.MALFORMED_JSON, detail), request_id)
        except Exception:  # noqa: BLE001 - the last frame: whatever it is, the caller gets an answer
            # As text: a renderer that shows local variables would write keys and secrets into the log.
            _log.error(
                "request_failed",
                request_id=request_id,
                method=request.method,
                path=request.path,
                traceback=traceback.format_exc(),
            )
            detail = "This is our fault; quote the request id when you report it."
            response = _answer(ProblemError(ProblemCode.INTERNAL, detail), request_id)
        headers = response.headers
        headers[REQUEST_ID_HEADER] = request_id
        headers.update(_HEADERS)
        resource = route.resource
        shown = UNKNOWN_ROUTE if resource is None else resource.canonical
        self._metrics.observe(shown, request.method, response.status, time.perf_counter() - started)
        return response

    def _id_of(self, request: web.Request) -> str:
        """Returns the caller's own request id when it is harmless in a log, else a new one."""
        given = request.headers.get(REQUEST_ID_HEADER)
        if given is not None and _GIVEN_ID.fullmatch(given):
            return given
        return f"req_{self._process_id}{next(self._numbers):x}"


def _answer(problem: ProblemError, request_id: str) -> web.Response:
    response = web.Response(
        status=problem.status,
        body=problem.body(request_id),
        headers={**problem.headers, "Content-Type": MEDIA_TYPE},
    )
    if problem.code is ProblemCode.REQUEST_TIMEOUT:
        response.force_close()  # the rest of the body may still come, and is no request (RFC 9110, 15.5.9)
    return response


def _problem_of(error: web.HTTPException) -> ProblemError:
    """Translates what aiohttp itself raises."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{error.method} is not allowed here; use {allowed}."
        return ProblemError(ProblemCode.METHOD_NOT_ALLOWED, detail, headers={"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return ProblemError(ProblemCode.TOO_LARGE, "The body is too large; make it smaller.")
    if isinstance(error, web.HTTPNotFound):
        return ProblemError(ProblemCode.NOT_FOUND, "There is no such path; the API is at /api/v1/.")
    if error.status < 500:
        return ProblemError(ProblemCode.BAD_HEADER, f"The request cannot be read: {error.reason}.")
    _log.error("unexpected_http_exception", error=repr(error))
    return ProblemError(ProblemCode.INTERNAL, "This is our fault; quote the request id when you report it.")
