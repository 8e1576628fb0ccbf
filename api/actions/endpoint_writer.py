"""The one writer of the `endpoints` topic in this process.

A compacted topic keeps the last record of a key, so two writers that read, change and write would lose one
change without a trace. Here writes are taken one after another, and each is waited for until our own view
shows it: the next write, the answer to the caller, and the count of a publish that follows all see it.

Rejected: compare-and-set on the log (Kafka has none), and answering once the append is acknowledged (a read
right after the 201 could be a 404).
"""

import asyncio
from typing import Final

from api.endpoint_view import EndpointView
from api.log_writes import LogWrites
from dataflows.connectors.log.port import Entry, TopicPartition
from schemas.endpoint import Endpoint
from schemas.errors import LogUnavailable
from schemas.topics import ENDPOINTS
from schemas.wire.records import ENDPOINT

_TOPIC: Final = TopicPartition(ENDPOINTS.name, 0)


class EndpointWriter:
    """Writes endpoints, one at a time."""

    def __init__(self, writes: LogWrites, view: EndpointView, timeout_ms: int) -> None:
        self._writes = writes
        self._view = view
        self._timeout_s = timeout_ms / 1_000
        self._turn = asyncio.Lock()

    async def write(self, endpoint: Endpoint) -> None:
        """Writes the endpoint and waits until our own view shows it.

        Raises:
            LogUnavailable: it is not known to be written, or not yet to be seen.
        """
        entry = Entry(endpoint.id.encode(), ENDPOINT.encode(endpoint))
        async with self._turn:
            appended = await self._writes.append(_TOPIC, [entry])
            if not await self._view.reach(appended.first_offset + 1, self._timeout_s):
                raise LogUnavailable(
                    f"endpoint {endpoint.id} is written, but the view of endpoints lags behind"
                )
