"""Chooses what is sent next: a plain rotation over endpoints with a cap on what is in flight to each.

This is the seam that the isolation work (slots, fairness, lanes by share, breakers) replaces whole. What it
promises
to the engine: work proportional to what is dispatched, never to the number of endpoints or of waiting
    deliveries.
"""

from collections.abc import Callable
from itertools import cycle, islice

from operators.shard import ending
from operators.shard.actions import Dispatch
from operators.shard.live import EndpointQueue, Live, Stage
from operators.shard.park import park_live
from operators.shard.policy import LATE_GRACE_MS
from operators.shard.state import ShardState
from operators.shard.store_port import Batch
from operators.shard.timers import read_ready, refill
from schemas.delivery import DeliveryState, Lane
from schemas.endpoint import Endpoint, EndpointStatus
from schemas.transition import Reason

QUANTUM = 16
"""Deliveries an endpoint gets per turn."""
LANE_TURNS = (Lane.FRESH, Lane.RETRY, Lane.FRESH, Lane.RETRY, Lane.FRESH, Lane.REPLAY)
"""The lanes take turns, work-conserving: no lane starves another."""
ENDS_BLOCK_MAX = 500
"""Deliveries of a deleted endpoint that one turn ends."""
REVIEW_ENDS_MAX = 2_000
"""Deliveries that one review of held endpoints ends: about 50 ms."""

_End = tuple[DeliveryState, Reason]
CANCELLED = (DeliveryState.CANCELLED, Reason.CANCELLED_BY_PERSON)
DELETED = (DeliveryState.CANCELLED, Reason.ENDPOINT_DELETED)
EXPIRED = (DeliveryState.DEAD_LETTERED, Reason.EXPIRED)
EXPIRED_WHILE_HELD = (DeliveryState.DEAD_LETTERED, Reason.EXPIRED_WHILE_HELD)


def next_block(state: ShardState, now_ms: int, slots_free: int) -> list[Dispatch]:
    """Returns what to send now, at most `slots_free`; each is marked in flight, its attempt number is final.

    Args:
        state: of the shard.
        now_ms: milliseconds UTC.
        slots_free: requests that the process may start now.
    """
    chosen: list[Dispatch] = []
    ends = _Ends(state, now_ms, ENDS_BLOCK_MAX)
    while state.active and len(chosen) < slots_free and ends.has_room:
        queue = state.active.popleft()
        queue.is_active = False
        endpoint = _open_endpoint(state, queue, now_ms)
        if endpoint is None:
            _set_aside(state, queue, ends, now_ms)
            continue
        cap = min(state.policy.endpoint_in_flight_max, endpoint.max_concurrency)
        for _ in range(min(cap - queue.in_flight_count, slots_free - len(chosen), QUANTUM)):
            live = _next_live(state, queue, now_ms)
            if live is None:
                break
            if live.offset in state.tries.parked:
                park_live(state, live, now_ms)
                continue
            if live.is_cancelled:
                ends.add(live, *CANCELLED)
                continue
            if _is_too_late(state, live, endpoint, now_ms):
                ends.add(live, *EXPIRED)
                continue
            live.stage = Stage.IN_FLIGHT
            live.endpoint = endpoint
            queue.in_flight_count += 1
            state.in_flight_count += 1
            chosen.append(Dispatch(live, endpoint, live.attempt_count + 1))
        if queue.in_flight_count < cap and queue.has_work:
            state.activate(queue)
        elif queue.is_idle:
            state.queues.pop(queue.endpoint_id, None)
    ends.write()
    return chosen


def return_to_queue(state: ShardState, live: Live) -> None:
    """Puts back a delivery whose try was no attempt, at the head of its lane: before whatever is younger."""
    live.stage = Stage.QUEUED
    waiting = state.queue_of(live.delivery.endpoint_id).lanes[live.lane]
    place = next((place for place, other in enumerate(waiting) if other.offset > live.offset), len(waiting))
    waiting.insert(place, live)


def review_held(state: ShardState, now_ms: int) -> None:
    """Looks again at held endpoints: wakes those that need not be held, ends what has outlived its window."""
    ends = _Ends(state, now_ms, REVIEW_ENDS_MAX)
    for endpoint_id in list(state.held):
        queue = state.queues[endpoint_id]
        endpoint = state.endpoints.get(endpoint_id)
        if endpoint is None or _open_endpoint(state, queue, now_ms) is not None:
            state.wake(endpoint_id)
        elif queue.review_at_ms <= now_ms and ends.has_room:
            _review(state, queue, endpoint, ends, now_ms)
    ends.write()


class _Ends:
    """Deliveries that a turn ends without an attempt, or moves out of memory, in one batch."""

    def __init__(self, state: ShardState, now_ms: int, count_max: int) -> None:
        self._state = state
        self._now_ms = now_ms
        self._count_left = count_max
        self._batch: Batch | None = None
        self._has_ended = False

    @property
    def has_room(self) -> bool:
        return self._count_left > 0

    @property
    def batch(self) -> Batch:
        if self._batch is None:
            self._batch = self._state.store.batch()
        return self._batch

    def add(self, live: Live, to: DeliveryState, reason: Reason) -> None:
        self._count_left -= 1
        self._has_ended = True
        ending.end(self._state, self.batch, live, to, reason, self._now_ms)

    def write(self) -> None:
        if self._batch is not None:
            if self._has_ended:
                self._state.put_stamp(self._batch)
            self._state.store.write(self._batch)


def _open_endpoint(state: ShardState, queue: EndpointQueue, now_ms: int) -> Endpoint | None:
    """Returns the endpoint when something may be sent to it now."""
    endpoint = state.endpoints.get(queue.endpoint_id)
    if endpoint is None or endpoint.status is not EndpointStatus.ACTIVE or queue.paused_until_ms > now_ms:
        return None
    row = state.endpoint_rows.get(queue.endpoint_id)
    is_gone = row is not None and row.disabled_generation >= endpoint.generation
    return None if is_gone else endpoint


def _set_aside(state: ShardState, queue: EndpointQueue, ends: "_Ends", now_ms: int) -> None:
    """Sees to what waits for an endpoint that nothing may be sent to: it is held, or cancelled when deleted.

    Deleted means: the view does not know the endpoint, and has reached the position of the match. What is
    ahead of the view waits for it, and whatever came behind that waits too.
    """
    if state.endpoints.get(queue.endpoint_id) is None:
        position = state.endpoints.position

        def verdict(live: Live) -> _End | None:
            if live.is_cancelled:
                return CANCELLED
            return DELETED if live.delivery.matched_at <= position else None

        _end_oldest(state, queue, ends, now_ms, verdict)
    if not queue.has_work:
        state.release(queue)
    elif ends.has_room:
        state.hold(ends.batch, queue)
    else:
        state.activate(queue)


def _review(state: ShardState, queue: EndpointQueue, endpoint: Endpoint, ends: "_Ends", now_ms: int) -> None:
    """Ends what has waited longer than its window; what a person cancelled at its crash ends here too."""
    window_ms = state.retry_policy(endpoint).window_ms

    def verdict(live: Live) -> _End | None:
        if live.is_cancelled:
            return CANCELLED
        return EXPIRED_WHILE_HELD if live.fanned_out_at_ms + window_ms < now_ms else None

    left = _end_oldest(state, queue, ends, now_ms, verdict)
    if not queue.has_work:
        state.wake(queue.endpoint_id)
    elif ends.has_room:
        queue.review_at_ms = min((live.fanned_out_at_ms + window_ms + 1 for live in left), default=0)


def _end_oldest(
    state: ShardState,
    queue: EndpointQueue,
    ends: "_Ends",
    now_ms: int,
    verdict: Callable[[Live], _End | None],
) -> list[Live]:
    """Ends what waits in each lane, oldest first, until the verdict is None; returns those that stopped it.

    What stands in the store only is ended there, without taking it into memory.
    """
    left: list[Live] = []
    for lane in Lane:
        waiting = queue.lanes[lane]
        is_stopped = False
        while not is_stopped and ends.has_room and (waiting or queue.has_more[lane]):
            block = list(waiting) or read_ready(state, queue, lane, now_ms, state.policy.refill_max)
            for live in block:
                end = verdict(live) if live.stage is Stage.QUEUED and ends.has_room else None
                if end is None and live.stage is Stage.QUEUED:
                    is_stopped = True
                    left.append(live)
                    if not waiting:
                        queue.lower_cursor(lane, live.offset)
                    break
                if waiting:
                    waiting.popleft()
                if end is not None:
                    ends.add(live, *end)
    return left


def _next_live(state: ShardState, queue: EndpointQueue, now_ms: int) -> Live | None:
    """Takes the next delivery: the lanes in turn, empty ones skipped."""
    start = queue.turn
    queue.turn = (start + 1) % len(LANE_TURNS)
    for lane in islice(cycle(LANE_TURNS), start, start + len(LANE_TURNS)):
        while (live := _oldest(state, queue, lane, now_ms)) is not None:
            queue.lanes[lane].popleft()
            if live.stage is Stage.QUEUED:
                return live
    return None


def _oldest(state: ShardState, queue: EndpointQueue, lane: Lane, now_ms: int) -> Live | None:
    waiting = queue.lanes[lane]
    if not waiting and queue.has_more[lane]:
        refill(state, queue, lane, now_ms)
    return waiting[0] if waiting else None


def _is_too_late(state: ShardState, live: Live, endpoint: Endpoint, now_ms: int) -> bool:
    """Whether the window is over. An attempt that became due inside it has a minute's grace."""
    return now_ms > live.fanned_out_at_ms + state.retry_policy(endpoint).window_ms + LATE_GRACE_MS
