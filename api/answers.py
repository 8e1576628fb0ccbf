"""Answers with a JSON body; what every answer carries besides is the front's business."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

MEDIA_TYPE: Final = "application/json"
_encode = msgspec.json.Encoder().encode


def json_answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:  # noqa: ANN401 - whatever msgspec can write
    """Returns the answer to a request that went well."""
    return web.Response(
        body=body if isinstance(body, bytes) else _encode(body),
        status=status,
        headers={"Content-Type": MEDIA_TYPE, **(headers or {})},
    )
