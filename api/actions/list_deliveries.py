"""Listing deliveries and events: from the delivery log, newest first, a page at a time.

A list is of what the delivery log shows, and `as_of` says up to when that is complete. The memory of what was
just accepted is left out: it knows one process's events only, and a list whose newest rows depend on which
process answers is worse than one that is a second behind.

`in_flight` and `held` are no filters: nobody writes them down (an attempt is written when it ends, and what
is held is told from its endpoint).
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

from api.log_progress import LogProgress, ProgressReader
from api.pages import PageRequest, choice_of, cursor_of, page_of
from api.problems import ProblemError
from api.read_pool import ReadPool
from dataflows.connectors.delivery_log import listing
from dataflows.connectors.delivery_log.listing import Listed, Place, Wanted
from dataflows.connectors.delivery_log.port import DeliveryLog
from schemas.delivery import DeliveryState
from schemas.problem_codes import ProblemCode
from schemas.rest.delivery import delivery_answer
from schemas.rest.event_summary import event_summary_answer
from schemas.rest.problem import FieldError
from schemas.rest.times import parse_rfc3339, rfc3339

DELIVERY_PARAMETERS: Final = (
    "tenant_id",
    "endpoint_id",
    "event_id",
    "event_type",
    "state",
    "since",
    "until",
    "limit",
    "cursor",
)
EVENT_PARAMETERS: Final = ("tenant_id", "type", "since", "until", "limit", "cursor")

_WORD: Final = re.compile(r"[A-Za-z0-9_:.-]{1,160}")
_PLACE: Final = re.compile(r"([0-9]{1,15})\.(.{0,160})", re.DOTALL)
Answer = dict[str, Any]
T = TypeVar("T")


class ListedState(StrEnum):
    """The states that a list can be limited to."""

    PENDING = DeliveryState.PENDING.value
    RETRYING = DeliveryState.RETRYING.value
    DELIVERED = DeliveryState.DELIVERED.value
    DEAD_LETTERED = DeliveryState.DEAD_LETTERED.value
    CANCELLED = DeliveryState.CANCELLED.value


class ListHistory:
    """The use case, with what it needs. Belongs to the event loop's thread; the log is read on the pool."""

    def __init__(self, delivery_log: DeliveryLog, pool: ReadPool, progress: ProgressReader) -> None:
        self._log = delivery_log
        self._pool = pool
        self._progress = progress

    async def deliveries(self, tenant_id: str | None, query: Mapping[str, str]) -> Answer:
        """Returns a page of deliveries.

        Raises:
            ProblemError: `bad_parameter`.
            StoreUnavailable: the delivery log does not answer.
        """
        state = choice_of(query, "state", ListedState)
        wanted = Wanted(
            tenant_id=_word(tenant_id, "tenant_id"),
            endpoint_id=_word(query.get("endpoint_id"), "endpoint_id"),
            event_id=_word(query.get("event_id"), "event_id"),
            event_type=_word(query.get("event_type"), "event_type"),
            state=None if state is None else DeliveryState(state.value),
            since_ms=_time(query, "since"),
            until_ms=_time(query, "until"),
        )
        return await self._page("deliveries", wanted, query, listing.deliveries, delivery_answer)

    async def events(self, tenant_id: str | None, query: Mapping[str, str]) -> Answer:
        """Returns a page of events, without their data; raises as `deliveries`."""
        wanted = Wanted(
            tenant_id=_word(tenant_id, "tenant_id"),
            event_type=_word(query.get("type"), "type"),
            since_ms=_time(query, "since"),
            until_ms=_time(query, "until"),
        )
        return await self._page("events", wanted, query, listing.events, event_summary_answer)

    async def _page(
        self,
        name: str,
        wanted: Wanted,
        query: Mapping[str, str],
        rows_of: Callable[[DeliveryLog, Wanted, Place | None, int], Listed[T]],
        shown: Callable[[T], object],
    ) -> Answer:
        listed = (name, repr(wanted))
        page = page_of(query, *listed)
        after = _place(page)

        def read() -> tuple[Listed[T], LogProgress]:
            progress = self._progress.progress()
            return rows_of(self._log, wanted, after, page.limit), progress

        found, progress = await self._pool.run(read)
        last = found.after
        return {
            "data": [shown(row) for row in found.rows],
            "next_cursor": None if last is None else cursor_of(f"{last.at_ms}.{last.id}", *listed),
            "as_of": rfc3339(progress.as_of_ms),
            "log_delayed_seconds": progress.delayed_ms / 1_000,
        }


def _word(text: str | None, name: str) -> str | None:
    if text is not None and _WORD.fullmatch(text) is None:
        raise _bad(name, f"{name} is 1 to 160 letters, digits or any of _ : . -.")
    return text


def _time(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise _bad(name, f"{name} {error}.") from error


def _place(page: PageRequest) -> Place | None:
    if not page.after:
        return None
    read = _PLACE.fullmatch(page.after)
    if read is None:
        raise _bad("cursor", "cursor is not one that this list gave out; start without it.")
    return Place(int(read[1]), read[2])


def _bad(name: str, detail: str) -> ProblemError:
    code = ProblemCode.BAD_PARAMETER
    return ProblemError(code, detail, errors=(FieldError(f"?{name}", code.value, detail),))
