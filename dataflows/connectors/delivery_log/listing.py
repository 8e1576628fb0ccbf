"""Lists from the delivery log, newest first: deliveries and events, by filters, a page at a time.

The tables are ordered by tenant and id, not by time, and a page must not cost a sort of everything. So a list
walks back in time in windows: an hour, then eight times as much, up to three weeks. Parts are pruned by their
time, granules by a minmax index; a page of a busy system ends in the first window.

The sort key is (time, id), and a page continues below the last row shown. Two records of one delivery (a
fan-out done twice) have two times: only the first one is shown, so a row that is not the first record of its
id is passed over; asking for that costs one look into the primary key per block.

A delivery's state is its last transition, which stands in another table. The filter asks first which
deliveries ever had the state, which is cheap, and then takes those whose state it still is. Deliveries are
compared there by a 64-bit hash: a set of a million texts would not fit into the memory of one query (256 MB,
tried), a set of a million numbers does.

A filter that few rows pass must not make one request walk for ever: after `BLOCKS_MAX` blocks the page ends
early, and says where to continue.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from msgspec import Struct

from dataflows.connectors.delivery_log.port import DeliveryLog
from dataflows.connectors.delivery_log.reads import with_states
from schemas.delivery import DeliveryState
from schemas.delivery_view import DeliveryView, EventSummary

HOUR_MS: Final = 3_600_000
WINDOW_MS_MAX: Final = 512 * HOUR_MS
WINDOW_GROWTH: Final = 8
BLOCKS_MAX: Final = 20
"""Each takes some 100 ms with a million rows, when the state is asked for."""
BLOCK_ROWS: Final = 200
SLACK_MS: Final = 600_000
"""By how much the clock that stamps transitions may lag behind the log that stamps deliveries."""

# A page continues below (`at`, `id`); `lo` is where the window begins.
# use_top_k_dynamic_filtering: ClickHouse 26.5 mixes up the columns of a sort key of two and fails
# (TYPE_MISMATCH).
DELIVERIES = """
SELECT tenant_id, delivery_id, event_id, endpoint_id, event_type, replay_id, created_at, partition
FROM deliveries
WHERE created_at >= {lo:DateTime64(3)} AND created_at <= {at:DateTime64(3)}
    AND (created_at < {at:DateTime64(3)} OR delivery_id < {id:String}) AND /*filter*/
ORDER BY created_at DESC, delivery_id DESC
LIMIT {limit:UInt32}
SETTINGS use_top_k_dynamic_filtering = 0
"""
FIRST_DELIVERIES = """
SELECT delivery_id AS id, min(created_at) AS at
FROM deliveries
WHERE tenant_id IN {tenants:Array(String)} AND event_id IN {events:Array(String)}
    AND delivery_id IN {ids:Array(String)}
GROUP BY delivery_id
"""
EVER_IN_STATE = """sipHash64(delivery_id) IN (
    SELECT sipHash64(delivery_id) FROM transitions
    WHERE state = {state:String} AND at >= {since:DateTime64(3)} AND /*filter*/
)"""
EVER_CHANGED = """sipHash64(delivery_id) NOT IN (
    SELECT sipHash64(delivery_id) FROM transitions WHERE at >= {since:DateTime64(3)} AND /*filter*/
)"""
EVENTS = """
SELECT tenant_id, event_id, type, recorded_at, occurred_at, idempotency_key
FROM events
WHERE recorded_at >= {lo:DateTime64(3)} AND recorded_at <= {at:DateTime64(3)}
    AND (recorded_at < {at:DateTime64(3)} OR event_id < {id:String}) AND /*filter*/
ORDER BY recorded_at DESC, event_id DESC
LIMIT {limit:UInt32}
SETTINGS use_top_k_dynamic_filtering = 0
"""
FIRST_EVENTS = """
SELECT event_id AS id, min(recorded_at) AS at
FROM events
WHERE tenant_id IN {tenants:Array(String)} AND event_id IN {ids:Array(String)}
GROUP BY event_id
"""
# Answered from what every part knows of itself, because the months are made of these columns.
DELIVERIES_REACH = "SELECT min(created_at) AS oldest, max(created_at) AS newest, count() AS n FROM deliveries"
EVENTS_REACH = "SELECT min(recorded_at) AS oldest, max(recorded_at) AS newest, count() AS n FROM events"
_FILTER: Final = "/*filter*/"

Row = dict[str, Any]
T = TypeVar("T")


class Place(NamedTuple):
    """A sort key; a list continues with what is less."""

    at_ms: int
    id: str


class Wanted(Struct, frozen=True):
    """Which rows are listed; None means any.

    Attributes:
        state: for deliveries only; one that a delivery log can know: `pending` or that of a transition.
        since_ms, until_ms: of the record's time, the end excluded.
    """

    tenant_id: str | None = None
    endpoint_id: str | None = None
    event_id: str | None = None
    event_type: str | None = None
    state: DeliveryState | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class Listed(Struct, Generic[T], frozen=True):
    """A page; `after` is where the next one begins, None when there is none."""

    rows: list[T]
    after: Place | None


def deliveries(log: DeliveryLog, wanted: Wanted, after: Place | None, limit: int) -> Listed[DeliveryView]:
    """Returns a page of deliveries with their states, newest first.

    Args:
        after: the last one of the page before; None for the first page.
        limit: rows at most.
    """
    names = ("tenant_id", "endpoint_id", "event_id", "event_type")
    condition, values = _condition(wanted, names)

    def block(lo_ms: int, below: Place, rows_max: int) -> list[Row]:
        where, more = condition, dict(values)
        if wanted.state is not None:
            is_pending = wanted.state is DeliveryState.PENDING
            asked = (EVER_CHANGED if is_pending else EVER_IN_STATE).replace(_FILTER, condition)
            where = f"{condition} AND {asked}"
            more["since"] = max(0, lo_ms - SLACK_MS)
            more |= {} if is_pending else {"state": wanted.state.value}
        asked_for = {"lo": lo_ms, "at": below.at_ms, "id": below.id, "limit": rows_max}
        return log.query(DELIVERIES.replace(_FILTER, where), asked_for | more)

    def take(rows: list[Row]) -> list[tuple[Place, DeliveryView]]:
        events = {"events": sorted({row["event_id"] for row in rows})}
        first = _first_only(log, rows, FIRST_DELIVERIES, ("delivery_id", "created_at"), events)
        views = with_states(log, first)
        return [
            (Place(view.created_at_ms, view.id), view)
            for view in views
            if wanted.state is None or view.state == wanted.state
        ]

    walk = _Walk(block, take, lambda row: Place(row["created_at"], row["delivery_id"]))
    return walk.page(log.query(DELIVERIES_REACH)[0], wanted, after, limit)


def events(log: DeliveryLog, wanted: Wanted, after: Place | None, limit: int) -> Listed[EventSummary]:
    """Returns a page of events without their data, newest first; arguments as for `deliveries`."""
    condition, values = _condition(wanted, ("tenant_id", "event_type"))
    condition = condition.replace("event_type =", "type =")

    def block(lo_ms: int, below: Place, rows_max: int) -> list[Row]:
        asked_for = {"lo": lo_ms, "at": below.at_ms, "id": below.id, "limit": rows_max}
        return log.query(EVENTS.replace(_FILTER, condition), asked_for | values)

    def take(rows: list[Row]) -> list[tuple[Place, EventSummary]]:
        first = _first_only(log, rows, FIRST_EVENTS, ("event_id", "recorded_at"), {})
        return [(Place(row["recorded_at"], row["event_id"]), _summary(row)) for row in first]

    walk = _Walk(block, take, lambda row: Place(row["recorded_at"], row["event_id"]))
    return walk.page(log.query(EVENTS_REACH)[0], wanted, after, limit)


class _Walk(Generic[T]):
    """Walks back in time until a page is full.

    Args:
        block: the newest rows of a window below a place.
        take: those of a block that are listed, in its order.
        place: of a row.
    """

    def __init__(
        self,
        block: Callable[[int, Place, int], list[Row]],
        take: Callable[[list[Row]], list[tuple[Place, T]]],
        place: Callable[[Row], Place],
    ) -> None:
        self._block = block
        self._take = take
        self._place = place

    def page(self, reach: Row, wanted: Wanted, after: Place | None, limit: int) -> Listed[T]:
        """Returns a page of what `reach` covers."""
        if not reach["n"]:
            return Listed([], None)
        oldest_ms = max(reach["oldest"], wanted.since_ms or 0)
        end_ms = reach["newest"] + 1 if wanted.until_ms is None else wanted.until_ms
        below = min(Place(end_ms, ""), Place(reach["newest"] + 1, ""), after or Place(end_ms, ""))
        found: list[tuple[Place, T]] = []
        window_ms = HOUR_MS
        for _ in range(BLOCKS_MAX):
            lo_ms = max(oldest_ms, below.at_ms - window_ms)
            if lo_ms > below.at_ms:
                return self._cut(found, limit, None)
            rows_max = min(limit + 1, BLOCK_ROWS)
            rows = self._block(lo_ms, below, rows_max)
            if rows:
                found += self._take(rows)
            if len(found) > limit:
                break
            if len(rows) == rows_max:
                below = self._place(rows[-1])
            elif lo_ms == oldest_ms:
                return self._cut(found, limit, None)
            else:
                below = Place(lo_ms, "")
                window_ms = min(window_ms * WINDOW_GROWTH, WINDOW_MS_MAX)
        return self._cut(found, limit, below)

    def _cut(self, found: list[tuple[Place, T]], limit: int, below: Place | None) -> Listed[T]:
        after = found[limit - 1][0] if len(found) > limit else below
        return Listed([row for _, row in found[:limit]], after)


def _first_only(
    log: DeliveryLog, rows: list[Row], sql: str, names: tuple[str, str], more: dict[str, Any]
) -> list[Row]:
    """Returns the rows that are the first record of their id, each once."""
    id_name, time_name = names
    tenants = sorted({row["tenant_id"] for row in rows})
    ids = sorted({row[id_name] for row in rows})
    first = log.query(sql, {"tenants": tenants, "ids": ids} | more)
    at_of = {row["id"]: row["at"] for row in first}
    kept = {row[id_name]: row for row in rows if row[time_name] == at_of.get(row[id_name])}
    return list(kept.values())


def _condition(wanted: Wanted, names: Sequence[str]) -> tuple[str, dict[str, Any]]:
    values = {name: value for name in names if (value := getattr(wanted, name)) is not None}
    return " AND ".join(f"{name} = {{{name}:String}}" for name in values) or "true", values


def _summary(row: Row) -> EventSummary:
    return EventSummary(
        id=row["event_id"],
        tenant_id=row["tenant_id"],
        type=row["type"],
        recorded_at_ms=row["recorded_at"],
        occurred_at_ms=row["occurred_at"],
        idempotency_key=row["idempotency_key"],
    )
