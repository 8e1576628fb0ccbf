"""The one writer of the `endpoints` topic in this process.

A compacted topic keeps the last record of a key, so two writers that read, change and write would lose one
change without a trace. Here writes are taken one after another, and each is waited for until our own view
shows it: the next write, the answer to the caller, and the count of a publish that follows all see it.

A write that is not known to have happened may still happen. Editing what the view shows meanwhile would give
two different records one revision, and with it one entity tag, and one place in the cache of opened secrets.
So the next turn first puts a tombstone of nobody behind it and waits for that: the log keeps the order.

Rejected: compare-and-set on the log (Kafka has none), and answering once the append is acknowledged (a read
right after the 201 could be a 404).
"""

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from api.endpoint_view import EndpointView
from api.entity_tags import Precondition
from api.log_writes import LogWrites
from api.problems import ProblemError, not_found
from dataflows.connectors.log.port import Entry, TopicPartition
from schemas.endpoint import Endpoint
from schemas.errors import LogUnavailable
from schemas.problem_codes import ProblemCode
from schemas.rest.endpoint import etag_of
from schemas.topics import ENDPOINTS
from schemas.wire.records import ENDPOINT

Edit = Callable[[Endpoint], Endpoint]
ANY: Final = Precondition()

_TOPIC: Final = TopicPartition(ENDPOINTS.name, 0)
_NOBODY: Final = "ep_none"


class EndpointWriter:
    """Writes endpoints, one at a time.

    Args:
        timeout_ms: how long the view is waited for.
        clock_ms: milliseconds UTC.
    """

    def __init__(
        self, writes: LogWrites, view: EndpointView, timeout_ms: int, clock_ms: Callable[[], int]
    ) -> None:
        self._writes = writes
        self._view = view
        self._timeout_s = timeout_ms / 1_000
        self._clock_ms = clock_ms
        self._turn = asyncio.Lock()
        self._is_unsure = False

    def read(self, endpoint_id: str, tenant_id: str | None) -> Endpoint:
        """Returns an endpoint as it is now.

        Args:
            tenant_id: whose it must be; None for any.

        Raises:
            ProblemError: `not_found`.
        """
        endpoint = self._view.get(endpoint_id)
        if endpoint is None or (tenant_id is not None and endpoint.tenant_id != tenant_id):
            raise not_found("endpoint")
        return endpoint

    async def create(self, endpoint: Endpoint) -> None:
        """Writes a new endpoint and waits until our own view shows it.

        Raises:
            LogUnavailable: it is not known to be written, or not yet to be seen.
        """
        async with self._turn:
            await self._settle()
            await self._write(endpoint.id, endpoint)

    async def change(
        self, endpoint_id: str, tenant_id: str | None, precondition: Precondition, edit: Edit
    ) -> Endpoint:
        """Reads, edits and writes an endpoint in one turn; returns it as it is then.

        Args:
            edit: returns the changed endpoint, or the very one it was given when there is nothing to change.
                It neither waits nor counts revisions, and may raise a `ProblemError`.

        Raises:
            ProblemError: `not_found`, `version_conflict`, what `edit` raises, or `log_unavailable`.
        """
        async with self._turn:
            await self._settle_before_edit()
            current = self.read(endpoint_id, tenant_id)
            precondition.check(etag_of(current))
            edited = edit(current)
            if edited is current:
                return current
            now_ms = max(self._clock_ms(), current.updated_at_ms)
            changed = replace(edited, revision=current.revision + 1, updated_at_ms=now_ms)
            await self._write_known(endpoint_id, changed)
            return changed

    async def delete(self, endpoint_id: str, tenant_id: str | None, precondition: Precondition) -> None:
        """Writes an endpoint's tombstone.

        Raises:
            ProblemError: `not_found`, `version_conflict` or `log_unavailable`.
        """
        async with self._turn:
            await self._settle_before_edit()
            precondition.check(etag_of(self.read(endpoint_id, tenant_id)))
            await self._write_known(endpoint_id, None)

    async def _settle(self) -> None:
        """Waits until the view shows what became of a write that nobody knew about.

        Raises:
            LogUnavailable: it is still not known; nothing more was written.
        """
        if self._is_unsure:
            await self._write(_NOBODY, None)

    async def _settle_before_edit(self) -> None:
        try:
            await self._settle()
        except LogUnavailable as error:
            raise ProblemError(
                ProblemCode.LOG_UNAVAILABLE,
                "The log does not acknowledge at the moment. Nothing was changed; try again.",
                headers={"Retry-After": "1"},
            ) from error

    async def _write_known(self, endpoint_id: str, endpoint: Endpoint | None) -> None:
        try:
            await self._write(endpoint_id, endpoint)
        except LogUnavailable as error:
            raise ProblemError(
                ProblemCode.LOG_UNAVAILABLE,
                "It is not known whether the change was made. Read the endpoint, and make the change again"
                " when it is not there.",
                headers={"Retry-After": "1"},
                extensions={"endpoint_id": endpoint_id},
            ) from error

    async def _write(self, endpoint_id: str, endpoint: Endpoint | None) -> None:
        value = None if endpoint is None else ENDPOINT.encode(endpoint)
        self._is_unsure = True  # until the end of this method, however it ends: a shutdown may cancel it
        appended = await self._writes.append(_TOPIC, [Entry(endpoint_id.encode(), value)])
        if not await self._view.reach(appended.first_offset + 1, self._timeout_s):
            raise LogUnavailable(f"endpoint {endpoint_id} is written, but the view of endpoints lags behind")
        self._is_unsure = False
