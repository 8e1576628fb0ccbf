"""Chooses what is sent next: a plain rotation over endpoints with a cap on what is in flight to each.

This is the seam that the isolation work (slots, fairness, lanes by share, breakers) replaces whole. What it
promises
to the engine: work proportional to what is dispatched, never to the number of endpoints or of waiting
    deliveries.
"""

from itertools import cycle, islice

from operators.shard import ending
from operators.shard.actions import Dispatch
from operators.shard.live import EndpointQueue, Live, Stage
from operators.shard.policy import LATE_GRACE_MS
from operators.shard.state import ShardState
from operators.shard.store_port import Batch
from operators.shard.timers import refill
from schemas.delivery import DeliveryState, Lane
from schemas.endpoint import Endpoint, EndpointStatus
from schemas.transition import Reason

QUANTUM = 16
"""Deliveries an endpoint gets per turn."""
LANE_TURNS = (Lane.FRESH, Lane.RETRY, Lane.FRESH, Lane.RETRY, Lane.FRESH, Lane.REPLAY)
"""The lanes take turns, work-conserving: no lane starves another."""
ENDS_BLOCK_MAX = 500
"""Deliveries of a gone endpoint that one turn ends."""


def next_block(state: ShardState, now_ms: int, slots_free: int) -> list[Dispatch]:
    """Returns what to send now, at most `slots_free`; each is marked in flight, its attempt number is final.

    Args:
        state: of the shard.
        now_ms: milliseconds UTC.
        slots_free: requests that the process may start now.
    """
    chosen: list[Dispatch] = []
    ends = _Ends(state, now_ms)
    while state.active and len(chosen) < slots_free and ends.has_room:
        queue = state.active.popleft()
        queue.is_active = False
        endpoint = _sendable(state, queue, ends, now_ms)
        if endpoint is None:
            continue
        cap = min(state.policy.endpoint_in_flight_max, endpoint.max_concurrency)
        for _ in range(min(cap - queue.in_flight_count, slots_free - len(chosen), QUANTUM)):
            live = _next_live(state, queue, now_ms)
            if live is None:
                break
            if _is_too_late(state, live, endpoint, now_ms):
                ends.add(live, DeliveryState.DEAD_LETTERED, Reason.EXPIRED)
                continue
            live.stage = Stage.IN_FLIGHT
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
    """Puts back a delivery whose try was no attempt, at the head of its lane."""
    live.stage = Stage.QUEUED
    queue = state.queue_of(live.delivery.endpoint_id)
    queue.lanes[live.lane].appendleft(live)


def review_held(state: ShardState, now_ms: int) -> None:
    """Looks again at held endpoints: wakes those that were not known, ends what has outlived its window."""
    ends = _Ends(state, now_ms)
    for endpoint_id in list(state.held):
        queue = state.queues[endpoint_id]
        if state.endpoints.get(endpoint_id) is None:
            state.wake(endpoint_id)
            continue
        window_ms = state.retry_policy(state.endpoints.get(queue.endpoint_id)).window_ms
        for lane in Lane:
            while ends.has_room:
                live = _oldest(state, queue, lane, now_ms)
                if live is None or live.fanned_out_at_ms + window_ms >= now_ms:
                    break
                queue.lanes[lane].popleft()
                if live.stage is Stage.QUEUED:
                    ends.add(live, DeliveryState.DEAD_LETTERED, Reason.EXPIRED_WHILE_HELD)
        if not queue.has_work:
            state.wake(endpoint_id)
    ends.write()


class _Ends:
    """Deliveries that a turn ends without an attempt, in one batch."""

    def __init__(self, state: ShardState, now_ms: int) -> None:
        self._state = state
        self._now_ms = now_ms
        self._batch: Batch | None = None
        self._count = 0

    @property
    def has_room(self) -> bool:
        return self._count < ENDS_BLOCK_MAX

    def add(self, live: Live, to: DeliveryState, reason: Reason) -> None:
        if self._batch is None:
            self._batch = self._state.store.batch()
        self._count += 1
        ending.end(self._state, self._batch, live, to, reason, self._now_ms)

    def write(self) -> None:
        if self._batch is not None:
            self._state.put_stamp(self._batch)
            self._state.store.write(self._batch)


def _sendable(state: ShardState, queue: EndpointQueue, ends: _Ends, now_ms: int) -> Endpoint | None:
    """Returns the endpoint when something may be sent to it now; else sees to what waits for it."""
    if queue.paused_until_ms > now_ms:
        return None
    endpoint = state.endpoints.get(queue.endpoint_id)
    if endpoint is None:
        _on_unknown(state, queue, ends, now_ms)
        return None
    row = state.endpoint_rows.get(queue.endpoint_id)
    is_gone = row is not None and row.disabled_generation == endpoint.generation
    if endpoint.status is not EndpointStatus.ACTIVE or is_gone:
        state.hold(queue)
        return None
    return endpoint


def _on_unknown(state: ShardState, queue: EndpointQueue, ends: _Ends, now_ms: int) -> None:
    """Cancels what was matched at or before the view's position; what is ahead of the view waits for it."""
    for lane in Lane:
        kept: list[Live] = []
        while ends.has_room:
            live = _oldest(state, queue, lane, now_ms)
            if live is None:
                break
            queue.lanes[lane].popleft()
            if live.stage is not Stage.QUEUED:
                continue
            if live.delivery.matched_at > state.endpoints.position:
                kept.append(live)
            else:
                ends.add(live, DeliveryState.CANCELLED, Reason.ENDPOINT_DELETED)
        queue.lanes[lane].extendleft(reversed(kept))
    if not ends.has_room:
        state.activate(queue)
    elif queue.has_work:
        state.hold(queue)
    elif queue.is_idle:
        state.queues.pop(queue.endpoint_id, None)


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
