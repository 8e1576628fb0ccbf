"""The relay of `listen --forward-to`: hands a webhook on to a local application, and its answer back.

Body and headers go on byte for byte, signature included, because the application is what is being developed
and it has to verify what it gets. Only what belongs to the connection is left out: Host, lengths,
Connection and its kin. A redirect is not followed but handed back: what to do about it is the sender's
decision.
"""

from typing import Final
from urllib.parse import urlsplit

import aiohttp

from deploy.receiver.behaviour import Answer
from schemas.errors import BadInput

TIMEOUT_S: Final = 60.0
_OF_THE_CONNECTION: Final = frozenset(
    (
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
BAD_GATEWAY: Final = 502


class Relay:
    """Forwards requests to one URL.

    Args:
        url: of the application; one without a path gets the path that was asked for.

    Raises:
        BadInput: it is no http URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise BadInput(f"--forward-to {url} is no URL: write it as http://127.0.0.1:3000/hooks")
        self.url = parts.geturl()
        self._keeps_path = parts.path in {"", "/"}
        self._session: aiohttp.ClientSession | None = None

    async def forward(
        self, method: str, path: str, headers: tuple[tuple[str, str], ...], body: bytes
    ) -> Answer:
        """Returns what the application answered; 502 when it did not."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(TIMEOUT_S),
                auto_decompress=False,
                skip_auto_headers=("User-Agent",),
            )
        target = self.url.rstrip("/") + path if self._keeps_path else self.url
        try:
            async with self._session.request(
                method, target, data=body, headers=_handed_on(headers), allow_redirects=False
            ) as response:
                answered = tuple((name.lower(), value) for name, value in response.headers.items())
                return Answer(response.status, tuple(_handed_on(answered)), await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            text = f"{self.url} did not answer: {str(error) or type(error).__name__}"
            return Answer(BAD_GATEWAY, (), text.encode())

    async def close(self) -> None:
        """Closes its connections."""
        if self._session is not None:
            await self._session.close()


def _handed_on(headers: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name not in _OF_THE_CONNECTION]
