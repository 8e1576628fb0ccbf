"""One connection to the API: requests out, JSON or a refusal back.

`http.client` of the standard library, kept open between requests: a command asks a handful of questions,
one after the other, and must be quick to start. Rejected: aiohttp (200 ms of imports for one request),
requests and httpx (one more dependency each).

Only a read is repeated, and only on a kept connection that the server had closed meanwhile: of a write nobody
knows whether it was taken.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from msgspec import Struct

from deploy.client.failures import ApiRefusal, ApiUnreachable
from schemas.errors import BadInput

TIMEOUT_S: Final = 40.0
"""A verification waits for the endpoint, 30 s at most."""
BASE_PATH: Final = "/api/v1"

Parameters = Mapping[str, str | int | None]


class Answer(Struct, frozen=True):
    """An answer that is no refusal; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:  # noqa: ANN401 - JSON is what it is
        """The body's JSON; None when there is none."""
        return json.loads(self.body) if self.body else None


class Connection:
    """A connection, opened by the first request. Not for several threads.

    Args:
        url: of the API, as `http://127.0.0.1:8400`; a path in front of `/api/v1` may follow.
        key: the bearer key.
        timeout_s: of each read from the socket.

    Raises:
        BadInput: the URL or the key cannot be one.
    """

    def __init__(self, url: str, key: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/").removesuffix(BASE_PATH)
        parts = urlsplit(self.url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
            raise BadInput(f"{url} is not the URL of an API: write it as http://127.0.0.1:8400 (--url)")
        if not (key.isascii() and key.isprintable()):
            raise BadInput("the key holds characters that no key has: copy it again (--key)")
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._path = parts.path + BASE_PATH
        self._key = key
        self._http = kind(host, port, timeout=timeout_s)
        self._is_used = False

    def ask(
        self,
        method: str,
        path: str,
        *,
        parameters: Parameters | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Sends one request and returns the answer.

        Args:
            path: below `/api/v1`, beginning with `/`.
            parameters: of the query; None is left out.
            body: JSON.

        Raises:
            ApiRefusal: the API says no.
            ApiUnreachable: nobody answered.
        """
        query = urlencode({name: value for name, value in (parameters or {}).items() if value is not None})
        target = f"{self._path}{path}{'?' if query else ''}{query}"
        sent = {"Authorization": f"Bearer {self._key}", "Accept": "application/json", **(headers or {})}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        was_used = self._is_used
        try:
            try:
                answer = self._exchange(method, target, body, sent)
            except (ConnectionResetError, BrokenPipeError, ConnectionAbortedError):
                # The server closes connections that rest; http.client learns it from the next request.
                if not was_used or method != "GET":
                    raise
                answer = self._exchange(method, target, body, sent)
        except (OSError, HTTPException) as error:
            self.close()
            raise ApiUnreachable(self._sentence(error)) from error
        return self._checked(answer)

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        self._http.close()
        self._is_used = False

    def _exchange(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            self._http.request(method, target, body, dict(headers))
            response = self._http.getresponse()
            answer = Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
        except BaseException:
            self._http.close()
            raise
        self._is_used = True
        return answer

    def _checked(self, answer: Answer) -> Answer:
        if 200 <= answer.status < 300:
            if answer.body and "json" not in answer.headers.get("content-type", ""):
                raise ApiUnreachable(f"what answers at {self.url} is not Hooktide: check --url")
            return answer
        problem: object = None
        with suppress(ValueError):
            problem = answer.document
        if not isinstance(problem, dict) or "code" not in problem:
            raise ApiUnreachable(f"what answers at {self.url} ({answer.status}) is not Hooktide: check --url")
        if answer.status == 401:
            problem["detail"] = (
                f"{self.url} does not take this key: give the right one with --key or HOOKTIDE_KEY, "
                "or name its data directory with --data"
            )
        raise ApiRefusal(answer.status, problem)

    def _sentence(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return (
                f"{self.url} did not answer within {self._http.timeout:g} s: look at its log, then try again"
            )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return (
            f"nothing answers at {self.url} ({reason.lower()}): start it with `./hooktide up`, "
            "or say where it is with --url or HOOKTIDE_URL"
        )
