"""The API's view of the endpoints: what a read shows, and whom a publish will reach.

One `TableView` (which other threads of the process may share and catch up) and one `EndpointIndex`, the same
one that `route` matches with, so the count in a 202 and the fan-out cannot disagree but in time.
"""

import asyncio
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import structlog

from dataflows.connectors.table_view import TableView
from operators.endpoint_index import EndpointIndex, Matches
from schemas.endpoint import DisabledReport, Endpoint, EndpointStatus
from schemas.errors import HooktideError

_PUMP_S: Final = 0.25
_PUMP_AFTER_FAULT_S: Final = 5.0
_BLOCK: Final = 500  # decoding that many takes some 5 ms; the loop serves others in between
_POLL_S: Final = 0.002

_log = structlog.stdlib.get_logger("hooktide.api")


class EndpointView:
    """Endpoints by id, and by what they subscribed to.

    Args:
        table: of `endpoints`.
        reports: of `endpoint_status`: which ones `deliver` disabled after a 410.
    """

    def __init__(self, table: TableView[Endpoint], reports: TableView[DisabledReport] | None = None) -> None:
        self._table = table
        self._reports = reports
        self._index = EndpointIndex()
        # Ids are ordered by the time of creation, so a new one goes to the end; a page is found by bisection.
        self._ids: list[str] = []
        self._ids_by_tenant: dict[str, list[str]] = {}
        # Whoever shares the table may call `_on_change` from another thread while we match.
        self._lock = threading.Lock()
        table.on_change(self._on_change)
        if reports is not None:
            reports.on_change(self._on_report)

    def get(self, endpoint_id: str) -> Endpoint | None:
        """Returns the endpoint as the log's end has it, `disabled` when `deliver` disabled it."""
        self._table.catch_up(_BLOCK)
        if self._reports is not None:
            self._reports.catch_up(_BLOCK)
        return self.peek(endpoint_id)

    def peek(self, endpoint_id: str) -> Endpoint | None:
        """Returns the endpoint as it was when the view last caught up, at a hundredth of the cost."""
        endpoint = self._table.get(endpoint_id)
        if endpoint is None or self._reports is None:
            return endpoint
        report = self._reports.get(endpoint_id)
        if report is None or report.generation < endpoint.generation:
            return endpoint
        if endpoint.status is EndpointStatus.DISABLED:
            return endpoint
        return msgspec.structs.replace(
            endpoint, status=EndpointStatus.DISABLED, disabled_at_ms=report.disabled_at_ms
        )

    def list_ids(self, tenant_id: str | None, after: str) -> Iterator[str]:
        """Yields the ids of a tenant's endpoints (None: of all) in order of age, those after `after`.

        The list may change between two of them; ids that stay are yielded once.
        """
        ids = self._ids_by_tenant.get(tenant_id, []) if tenant_id is not None else self._ids
        while (at := bisect_right(ids, after)) < len(ids):
            after = ids[at]
            yield after

    def match(
        self, tenant_id: str, event_type: str, endpoint_ids: Sequence[str] | None, recorded_at_ms: int
    ) -> Matches:
        """Returns who gets an event recorded then, by the rules of `route`."""
        with self._lock:
            if endpoint_ids is not None:
                return self._index.named(tenant_id, endpoint_ids, recorded_at_ms)
            return self._index.match(tenant_id, event_type, recorded_at_ms)

    async def catch_up(self) -> None:
        """Follows the log to its present end; the loop serves others in between."""
        for table in (self._table, self._reports):
            has_more = table is not None
            while has_more:
                has_more = table is not None and table.catch_up(_BLOCK) >= _BLOCK
                await asyncio.sleep(0)

    async def reach(self, end: int, timeout_s: float) -> bool:
        """Waits until the view shows everything below `end`; returns False when it does not in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            caught_up = self._table.catch_up(_BLOCK)
            if self._table.reached(end):
                return True
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(0 if caught_up else _POLL_S)

    async def pump(self) -> None:
        """Follows the log until cancelled, so that a publish matches what other processes wrote."""
        while True:
            try:
                caught_up = self._table.catch_up(_BLOCK)
                if self._reports is not None:
                    caught_up = max(caught_up, self._reports.catch_up(_BLOCK))
                pause_s = 0 if caught_up == _BLOCK else _PUMP_S
            except HooktideError as error:
                _log.error("endpoints_unreadable", error=str(error))
                pause_s = _PUMP_AFTER_FAULT_S
            await asyncio.sleep(pause_s)

    def _on_change(self, key: str, old: Endpoint | None, new: Endpoint | None) -> None:
        with self._lock:
            if new is None:
                self._index.remove(key)
            else:
                self._index.upsert(new)
            if old is None and new is not None:
                insort(self._ids, key)
                insort(self._ids_by_tenant.setdefault(new.tenant_id, []), key)
            elif new is None and old is not None:
                _remove(self._ids, key)
                _remove(self._ids_by_tenant[old.tenant_id], key)

    def _on_report(self, _: str, __: DisabledReport | None, new: DisabledReport | None) -> None:
        if new is not None:
            with self._lock:
                self._index.report_disabled(new)


def _remove(ids: list[str], key: str) -> None:
    at = bisect_left(ids, key)
    if at < len(ids) and ids[at] == key:
        del ids[at]
