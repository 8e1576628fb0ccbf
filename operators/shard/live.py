"""A delivery in memory, and the queue of one endpoint.

These two are the only mutable objects of the hot path. One owner mutates them: the shard engine, on its
worker thread. A frozen struct per change would cost more than the change.
"""

from collections import deque
from collections.abc import Iterator
from enum import IntEnum

from schemas.delivery import Delivery, Lane
from schemas.endpoint import Endpoint
from schemas.outcome import ErrorCode


class Stage(IntEnum):
    """Where a delivery in memory stands."""

    QUEUED = 0
    IN_FLIGHT = 1
    ENDED = 2


class Live:
    """One delivery in memory.

    Attributes:
        offset: of its record in `deliveries`; names it within the shard.
        lane: the lane it waits in; also that of its row, when it has one.
        is_stored: whether `pending`, `ready` and `seen` hold it.
        ready_at_ms: since when it may be sent.
        may_have_been_sent: an earlier process may have sent the next attempt before it died.
        is_cancelled: a person cancelled it while it was in flight, by `actor`.
        endpoint: as it was when the delivery was sent; None before.
    """

    __slots__ = (
        "actor",
        "attempt_count",
        "delivery",
        "endpoint",
        "fanned_out_at_ms",
        "is_cancelled",
        "is_stored",
        "lane",
        "last_error_code",
        "last_status",
        "may_have_been_sent",
        "offset",
        "ready_at_ms",
        "schedule_step",
        "stage",
    )

    def __init__(
        self, offset: int, lane: Lane, delivery: Delivery, fanned_out_at_ms: int, ready_at_ms: int
    ) -> None:
        self.offset = offset
        self.lane = lane
        self.delivery = delivery
        self.fanned_out_at_ms = fanned_out_at_ms
        self.ready_at_ms = ready_at_ms
        self.attempt_count = 0
        self.schedule_step = 0
        self.stage = Stage.QUEUED
        self.is_stored = False
        self.is_cancelled = False
        self.may_have_been_sent = False
        self.actor = ""
        self.endpoint: Endpoint | None = None
        self.last_status: int | None = None
        self.last_error_code = ErrorCode.NONE


class EndpointQueue:
    """What waits for one endpoint: three lanes in memory, the rest of each in `ready`, read back by age.

    Attributes:
        lanes: by `Lane`; oldest first.
        has_more: whether `ready` may hold rows of the lane that are not in memory.
        cursor: the lowest offset of the lane that may not be in memory.
        is_active: whether it stands in the dispatch rotation.
        is_held: the endpoint is paused or disabled, or not known yet: nothing is sent, and nothing that waits
            for it stands in memory.
        paused_until_ms: a Retry-After.
        review_at_ms: while it is held: when the window of the oldest that waits ends.
    """

    __slots__ = (
        "cursor",
        "endpoint_id",
        "has_more",
        "in_flight_count",
        "is_active",
        "is_held",
        "lanes",
        "paused_until_ms",
        "review_at_ms",
        "turn",
    )

    def __init__(self, endpoint_id: str) -> None:
        self.endpoint_id = endpoint_id
        self.lanes: tuple[deque[Live], deque[Live], deque[Live]] = (deque(), deque(), deque())
        self.has_more = [False, False, False]
        self.cursor = [0, 0, 0]
        self.in_flight_count = 0
        self.is_active = False
        self.is_held = False
        self.paused_until_ms = 0
        self.review_at_ms = 0
        self.turn = 0

    @property
    def has_work(self) -> bool:
        """Whether anything waits, in memory or in the store."""
        fresh, retry, replay = self.lanes
        return bool(fresh or retry or replay) or any(self.has_more)

    @property
    def is_idle(self) -> bool:
        """Whether it can be forgotten: nothing waits, nothing is in flight, nothing is remembered."""
        return (
            not self.in_flight_count and not self.is_held and not self.paused_until_ms and not self.has_work
        )

    def lower_cursor(self, lane: Lane, offset: int) -> None:
        """Notes that `ready` holds a row of the lane that is not in memory."""
        if not self.has_more[lane] or offset < self.cursor[lane]:
            self.cursor[lane] = offset
            self.has_more[lane] = True
            self.review_at_ms = 0

    def queued(self) -> Iterator[Live]:
        """Yields what waits in memory."""
        for lane in self.lanes:
            yield from lane
