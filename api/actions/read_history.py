"""Reading what became of an event: from the delivery log, and until it shows it, from our own memory.

The promise is that whatever a 202 named can be read at once. So each read asks the delivery log first,
because it knows the state, and fills what is missing from the recent events: there a delivery is `pending`,
or, when its endpoint was deleted before the fan-out, `cancelled`. When the delivery log cannot answer, recent
events are still answered, anything else is 503.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from cachetools import TTLCache

from api.log_progress import LogProgress, ProgressReader
from api.pages import PageRequest, cursor_of
from api.problems import ProblemError, not_found
from api.read_pool import ReadPool
from api.recent_events import KEPT_MS, RecentDelivery, RecentEvent, RecentEvents
from dataflows.connectors.delivery_log import reads
from dataflows.connectors.delivery_log.port import DeliveryLog
from schemas.delivery import DeliveryState
from schemas.delivery_view import AttemptView, DeliveryView, EventView
from schemas.errors import StoreUnavailable
from schemas.problem_codes import ProblemCode
from schemas.rest.delivery import attempt_answer, delivery_answer
from schemas.rest.event import event_answer
from schemas.rest.times import rfc3339
from schemas.transition import Reason

Answer = dict[str, Any]
T = TypeVar("T")

# Ids made elsewhere (a Kafka producer's) are wider than ours; whatever is wider still is nobody's id.
_ID: Final = re.compile(r"[A-Za-z0-9_:.-]{1,160}")
LIST_NAME: Final = "deliveries_of_event"
RECORDED_WAIT_S: Final = 2.0
"""How long an action waits for the delivery log to show what was accepted a moment ago."""
_POLL_S: Final = 0.1
_RESENDS_MAX: Final = 10_000
_RETRY_AFTER: Final = {"Retry-After": "1"}


class ReadHistory:
    """The use case, with what it needs. Belongs to the event loop's thread; the log is read on the pool."""

    def __init__(
        self,
        delivery_log: DeliveryLog,
        pool: ReadPool,
        recent: RecentEvents,
        progress: ProgressReader,
        clock_ms: Callable[[], int],
        has_endpoint: Callable[[str], bool],
    ) -> None:
        self._has_endpoint = has_endpoint
        self._log = delivery_log
        self._pool = pool
        self._recent = recent
        self._progress = progress
        self._clock_ms = clock_ms
        self._resends: TTLCache[str, DeliveryView] = TTLCache(_RESENDS_MAX, KEPT_MS, clock_ms)

    async def event(self, tenant_id: str | None, event_id: str) -> Answer:
        """Returns an event with its data.

        Raises:
            ProblemError: `not_found`.
            StoreUnavailable: the delivery log does not answer, and we do not remember.
        """
        _check_id(event_id, "event")
        recent = self._recent_event(tenant_id, event_id)

        def read() -> tuple[EventView | None, LogProgress]:
            progress = self._progress.progress()
            return reads.event(self._log, tenant_id, event_id), progress

        view, progress = await self._read(read, is_remembered=recent is not None) or (None, self._unknown())
        if view is None and recent is not None:
            view = _event_view(recent)
        if view is None:
            raise not_found("event")
        return _spread(event_answer(view)) | _as_of(progress)

    async def deliveries(self, tenant_id: str | None, event_id: str, page: PageRequest) -> Answer:
        """Returns a page of an event's deliveries, in the order of their ids; raises as `event`."""
        _check_id(event_id, "event")
        recent = self._recent_event(tenant_id, event_id)

        def read() -> tuple[list[DeliveryView], bool, LogProgress]:
            progress = self._progress.progress()
            found = reads.deliveries_of_event(self._log, tenant_id, event_id, page.after, page.limit + 1)
            is_known = bool(found) or recent is not None
            is_known = is_known or reads.event(self._log, tenant_id, event_id) is not None
            return found, is_known, progress

        answer = await self._read(read, is_remembered=recent is not None)
        found, is_known, progress = answer or ([], True, self._unknown())
        if not is_known:
            raise not_found("event")
        by_id = {view.id: view for view in found}
        if recent is not None:
            for expected in self._recent.deliveries_of(recent):
                if expected.id > page.after and expected.id not in by_id:
                    by_id[expected.id] = self._expected_view(expected)
        rows = [by_id[name] for name in sorted(by_id)]
        shown = rows[: page.limit]
        next_cursor = cursor_of(shown[-1].id, LIST_NAME, event_id) if len(rows) > page.limit else None
        return {"data": [delivery_answer(view) for view in shown], "next_cursor": next_cursor} | _as_of(
            progress
        )

    async def delivery(self, tenant_id: str | None, delivery_id: str) -> Answer:
        """Returns a delivery with its attempts; raises as `event`."""
        _check_id(delivery_id, "delivery")
        recent = self._remembered(tenant_id, delivery_id)

        def read() -> tuple[DeliveryView | None, list[AttemptView], LogProgress]:
            progress = self._progress.progress()
            view = reads.delivery(self._log, tenant_id, delivery_id)
            attempts = [] if view is None else reads.attempts_of(self._log, view.tenant_id, delivery_id)
            return view, attempts, progress

        answer = await self._read(read, is_remembered=recent is not None)
        view, attempts, progress = answer or (None, [], self._unknown())
        view = recent if view is None else view
        if view is None:
            raise not_found("delivery")
        shown = {"attempts": [attempt_answer(attempt) for attempt in attempts]}
        return _spread(delivery_answer(view)) | shown | _as_of(progress)

    async def recorded(self, tenant_id: str | None, delivery_id: str) -> DeliveryView:
        """Returns a delivery as the delivery log shows it; waits for one that was accepted a moment ago.

        Raises:
            ProblemError: `not_found`, or `not_ready` when the log does not show it in time.
            StoreUnavailable: the delivery log does not answer.
        """
        _check_id(delivery_id, "delivery")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RECORDED_WAIT_S
        while True:
            view = await self._pool.run(lambda: reads.delivery(self._log, tenant_id, delivery_id))
            if view is not None:
                return view
            if self._remembered(tenant_id, delivery_id) is None:
                raise not_found("delivery")
            if loop.time() >= deadline:
                detail = "It was accepted a moment ago and is on its way; try again."
                raise ProblemError(ProblemCode.NOT_READY, detail, headers=_RETRY_AFTER)
            await asyncio.sleep(_POLL_S)

    async def is_recorded(self, tenant_id: str, delivery_id: str) -> bool:
        """Returns whether there is such a delivery, in the delivery log or in our memory.

        Raises:
            StoreUnavailable: the delivery log does not answer.
        """
        if self._remembered(tenant_id, delivery_id) is not None:
            return True
        view = await self._pool.run(lambda: reads.delivery(self._log, tenant_id, delivery_id))
        return view is not None

    async def kept_event(self, of: DeliveryView) -> EventView:
        """Returns the event of a delivery from the delivery log, with its data.

        Raises:
            ProblemError: `wrong_state`, when it is not kept any more; `not_ready`, when it is not there yet.
            StoreUnavailable: the delivery log does not answer.
        """

        def read() -> tuple[EventView | None, LogProgress]:
            progress = self._progress.progress()
            return reads.event(self._log, of.tenant_id, of.event_id), progress

        event, progress = await self._pool.run(read)
        if event is not None:
            return event
        if progress.as_of_ms <= of.created_at_ms:  # the tables are filled one by one
            detail = "The delivery log does not show its event yet; try again."
            raise ProblemError(ProblemCode.NOT_READY, detail, headers=_RETRY_AFTER)
        detail = f"The data of its event {of.event_id} is not kept any more; publish it again."
        raise ProblemError(ProblemCode.WRONG_STATE, detail)

    def remember(self, resend: DeliveryView) -> None:
        """Shows a delivery that was just made, until the delivery log does."""
        self._resends[resend.id] = resend

    def _remembered(self, tenant_id: str | None, delivery_id: str) -> DeliveryView | None:
        view = self._resends.get(delivery_id)
        if view is None:
            recent = self._recent.delivery(delivery_id, self._clock_ms())
            view = None if recent is None else self._expected_view(recent)
        return view if view is not None and tenant_id in (None, view.tenant_id) else None

    async def _read(self, read: Callable[[], T], *, is_remembered: bool) -> T | None:
        """Reads on the pool. Returns None when the delivery log does not answer, but our memory will do."""
        try:
            return await self._pool.run(read)
        except StoreUnavailable:
            if not is_remembered:
                raise
            return None

    def _recent_event(self, tenant_id: str | None, event_id: str) -> RecentEvent | None:
        recent = self._recent.get(event_id, self._clock_ms())
        is_foreign = recent is not None and tenant_id not in (None, recent.event.tenant_id)
        return None if is_foreign else recent

    def _expected_view(self, expected: RecentDelivery) -> DeliveryView:
        event, recorded_at_ms = expected.of.event, expected.of.recorded_at_ms
        is_deleted = not self._has_endpoint(expected.endpoint_id)
        return DeliveryView(
            id=expected.id,
            tenant_id=event.tenant_id,
            event_id=expected.of.id,
            endpoint_id=expected.endpoint_id,
            event_type=event.type,
            replay_id="",
            shard=0,
            state=DeliveryState.CANCELLED if is_deleted else DeliveryState.PENDING,
            reason=Reason.ENDPOINT_DELETED if is_deleted else "",
            actor="",
            attempt_count=0,
            next_attempt_at_ms=None,
            created_at_ms=recorded_at_ms,
            updated_at_ms=recorded_at_ms,
        )

    def _unknown(self) -> LogProgress:
        """Returns the progress of a delivery log that does not answer: what we remember is as of now."""
        return LogProgress(self._clock_ms(), 0)


def _check_id(text: str, what: str) -> None:
    if _ID.fullmatch(text) is None:
        raise not_found(what)


def _spread(answer: msgspec.Struct) -> Answer:
    return {name: getattr(answer, name) for name in answer.__struct_fields__}


def _as_of(progress: LogProgress) -> Answer:
    return {"as_of": rfc3339(progress.as_of_ms), "log_delayed_seconds": progress.delayed_ms / 1_000}


def _event_view(recent: RecentEvent) -> EventView:
    event = recent.event
    return EventView(
        id=recent.id,
        tenant_id=event.tenant_id,
        type=event.type,
        data=bytes(event.data),
        recorded_at_ms=recent.recorded_at_ms,
        occurred_at_ms=recent.recorded_at_ms if event.occurred_at_ms is None else event.occurred_at_ms,
        idempotency_key=event.idempotency_key or "",
    )
