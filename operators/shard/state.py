"""The state of one shard engine: what `accept`, `dispatch`, `settle`, `timers` and `barrier` share.

It is plain data with the few operations that keep its parts consistent. Decisions stand in the other files.
"""

from collections import deque
from heapq import heappop, heappush
from typing import Protocol

from msgspec.structs import replace

from operators.shard.actions import Publish
from operators.shard.live import EndpointQueue, Live, Stage
from operators.shard.policy import ShardPolicy
from operators.shard.seen import Seen
from operators.shard.store_port import Batch, Family, ShardStore
from operators.shard.tries_port import NO_TRIES, Tries
from schemas.delivery import DeliveryState, Lane
from schemas.endpoint import Endpoint, RetryPolicy
from schemas.transition import RowStamp
from schemas.wire import store_keys
from schemas.wire.store_rows import (
    ENDPOINT_ROW,
    OUTBOX_ROW,
    PENDING_ROW,
    STAMP_ROW,
    EndpointRow,
    OutboxRow,
    PendingRow,
    SeenRow,
)

LIVE_OVERHEAD_BYTES = 1_000
"""What a delivery in memory costs besides its body (objects, dict entries); measured 0.9 KB."""


class EndpointView(Protocol):
    """What the engine knows of endpoints: a view of the compacted topic."""

    @property
    def position(self) -> int:
        """The offset up to which the view is complete."""

    def get(self, key: str) -> Endpoint | None:
        """Returns the endpoint, or None when it is not there (deleted, or not yet seen)."""


class ShardState:
    """One shard.

    Attributes:
        epoch: of this owner; part of every stamp it writes.
        sequence: of the last outbox row written.
        next_offset: the next record of `deliveries` to take.
        live, by_id: deliveries in memory, by offset and by id.
        unsaved: those that the store does not hold.
        active: endpoints that can be sent to, in rotation.
        publishes: outbox rows written and not yet handed to the host.
        held: endpoints that nothing is sent to until they are woken.
        resend_below: records of `deliveries` below it may have been sent by an owner that crashed.
        pauses: a heap of (end of a pause in ms, endpoint id).
        tries: says what is being worked on; the host puts its own there.
    """

    def __init__(
        self, shard: int, epoch: int, store: ShardStore, endpoints: EndpointView, policy: ShardPolicy
    ) -> None:
        self.shard = shard
        self.epoch = epoch
        self.store = store
        self.endpoints = endpoints
        self.policy = policy
        self.tries: Tries = NO_TRIES
        self.seen = Seen(store)
        self.sequence = 0
        self.next_offset = 0
        self.highest_recorded_at_ms = 0
        self.live: dict[int, Live] = {}
        self.by_id: dict[str, Live] = {}
        self.unsaved: dict[int, Live] = {}
        self.live_bytes = 0
        self.in_flight_count = 0
        self.queues: dict[str, EndpointQueue] = {}
        self.active: deque[EndpointQueue] = deque()
        self.endpoint_rows: dict[str, EndpointRow] = {}
        self.publishes: list[Publish] = []
        self.pauses: list[tuple[int, str]] = []
        self.held: set[str] = set()
        self.resend_below = 0

    # Memory
    # ---------------------------------------------------------------------------------------------------

    def remember(self, live: Live) -> None:
        """Takes a delivery into memory."""
        self.live[live.offset] = live
        self.by_id[live.delivery.id] = live
        self.live_bytes += len(live.delivery.body) + LIVE_OVERHEAD_BYTES
        if not live.is_stored:
            self.unsaved[live.offset] = live

    def forget(self, live: Live) -> None:
        """Drops a delivery from memory."""
        live.stage = Stage.ENDED
        del self.live[live.offset]
        del self.by_id[live.delivery.id]
        self.live_bytes -= len(live.delivery.body) + LIVE_OVERHEAD_BYTES
        if not live.is_stored:
            self.unsaved.pop(live.offset, None)

    @property
    def has_room(self) -> bool:
        """Whether one more delivery may be held in memory."""
        return len(self.live) < self.policy.live_max and self.live_bytes < self.policy.live_bytes_max

    # Queues
    # ---------------------------------------------------------------------------------------------------

    def queue_of(self, endpoint_id: str) -> EndpointQueue:
        """Returns the endpoint's queue, made when it is the first work for it."""
        queue = self.queues.get(endpoint_id)
        if queue is None:
            queue = self.queues[endpoint_id] = EndpointQueue(endpoint_id)
            row = self.endpoint_rows.get(endpoint_id)
            if row is not None:
                queue.paused_until_ms = row.paused_until_ms
        return queue

    def activate(self, queue: EndpointQueue) -> None:
        """Puts a queue into the rotation, if it is not there; dispatch takes it out again."""
        if not queue.is_active:
            queue.is_active = True
            self.active.append(queue)

    def wake(self, endpoint_id: str) -> None:
        """Looks again at an endpoint whose record changed."""
        queue = self.queues.get(endpoint_id)
        if queue is not None:
            self.held.discard(endpoint_id)
            queue.is_held = False
            self.activate(queue)

    def release(self, queue: EndpointQueue) -> None:
        """Holds an endpoint no longer for which nothing waits, and forgets it when nothing is in flight."""
        self.held.discard(queue.endpoint_id)
        queue.is_held = False
        if queue.is_idle:
            self.queues.pop(queue.endpoint_id, None)

    def hold(self, batch: Batch, queue: EndpointQueue) -> None:
        """Sends nothing to an endpoint that is paused, disabled, or not known yet, until it is woken.

        What waits for it moves to `ready` and out of memory: memory is for what can be sent.
        """
        if not queue.is_held:
            queue.is_held = True
            queue.review_at_ms = 0
        self.held.add(queue.endpoint_id)
        for lane, waiting in zip(Lane, queue.lanes, strict=True):
            while waiting:
                live = waiting.pop()
                if live.stage is Stage.QUEUED:
                    self.save(batch, live)
                    self.forget(live)
                    queue.lower_cursor(lane, live.offset)

    def pause(self, batch: Batch, endpoint_id: str, until_ms: int) -> None:
        """Sends nothing to the endpoint until then; a longer pause that runs already stands."""
        row = self.endpoint_rows.get(endpoint_id, EndpointRow())
        if until_ms > row.paused_until_ms:
            self.put_endpoint_row(batch, endpoint_id, replace(row, paused_until_ms=until_ms))
            self.queue_of(endpoint_id).paused_until_ms = until_ms
            heappush(self.pauses, (until_ms, endpoint_id))

    def release_pauses(self, now_ms: int) -> None:
        """Looks again at the endpoints whose pause has ended."""
        if not self.pauses or self.pauses[0][0] > now_ms:
            return
        batch = self.store.batch()
        while self.pauses and self.pauses[0][0] <= now_ms:
            _, endpoint_id = heappop(self.pauses)
            row = self.endpoint_rows.get(endpoint_id)
            if row is None or not 0 < row.paused_until_ms <= now_ms:
                continue
            self.put_endpoint_row(batch, endpoint_id, replace(row, paused_until_ms=0))
            queue = self.queues.get(endpoint_id)
            if queue is not None:
                queue.paused_until_ms = 0
                self.wake(endpoint_id)
        self.store.write(batch)

    def can_hold(self, queue: EndpointQueue, lane: Lane) -> bool:
        """Whether the lane takes one more in memory; order says no while older ones are only in `ready`."""
        return (
            not queue.has_more[lane]
            and len(queue.lanes[lane]) < self.policy.endpoint_live_max
            and self.has_room
        )

    # Rows
    # -----------------------------------------------------------------------------------------------------

    def save(self, batch: Batch, live: Live) -> None:
        """Writes a delivery that only memory holds; does nothing with one that the store holds."""
        if not live.is_stored:
            self.put_ready(batch, live)
            live.is_stored = True
            self.unsaved.pop(live.offset, None)

    def put_ready(self, batch: Batch, live: Live) -> None:
        """Writes `pending`, `ready` and `seen` of a delivery that may be sent when its endpoint lets it."""
        key = store_keys.work_key(live.delivery.endpoint_id, live.lane, live.offset)
        batch.put(Family.PENDING, key, PENDING_ROW.encode(self.pending_row(live, 0)))
        batch.put(Family.READY, key, b"")
        self.seen.put(batch, live.delivery, self.seen_row(live, DeliveryState.PENDING, has_row=True))

    def put_due(self, batch: Batch, live: Live, next_attempt_at_ms: int) -> bytes:
        """Writes `pending`, `due` and `seen` of a delivery that waits for its time; returns the `due` key."""
        endpoint_id = live.delivery.endpoint_id
        key = store_keys.work_key(endpoint_id, live.lane, live.offset)
        due = store_keys.due_key(next_attempt_at_ms, endpoint_id, live.lane, live.offset)
        batch.put(Family.PENDING, key, PENDING_ROW.encode(self.pending_row(live, next_attempt_at_ms)))
        batch.put(Family.DUE, due, b"")
        row = self.seen_row(live, DeliveryState.RETRYING, has_row=True, next_attempt_at_ms=next_attempt_at_ms)
        self.seen.put(batch, live.delivery, row)
        return due

    def delete_ready(self, batch: Batch, live: Live) -> None:
        """Deletes the rows of a stored delivery that was ready."""
        key = store_keys.work_key(live.delivery.endpoint_id, live.lane, live.offset)
        batch.delete(Family.PENDING, key)
        batch.delete(Family.READY, key)

    def pending_row(self, live: Live, next_attempt_at_ms: int) -> PendingRow:
        """Returns the row of `pending`."""
        return PendingRow(
            live.delivery,
            live.offset,
            live.lane,
            live.fanned_out_at_ms,
            live.attempt_count,
            live.schedule_step,
            next_attempt_at_ms,
            live.last_status,
            live.last_error_code,
            self.epoch,
            live.may_have_been_sent,
            live.actor if live.is_cancelled else None,
        )

    @staticmethod
    def seen_row(live: Live, state: DeliveryState, *, has_row: bool, next_attempt_at_ms: int = 0) -> SeenRow:
        """Returns the row of `seen`."""
        return SeenRow(
            state,
            live.delivery.digest,
            live.delivery.endpoint_id,
            live.lane,
            live.offset,
            has_row,
            live.attempt_count,
            live.schedule_step,
            next_attempt_at_ms,
        )

    def tidy_endpoint_row(self, endpoint_id: str) -> None:
        """Forgets what no longer counts: that a generation was disabled which a person has enabled since.

        An endpoint that the view does not know is left alone: it may be ahead of the view.
        """
        row = self.endpoint_rows.get(endpoint_id)
        endpoint = self.endpoints.get(endpoint_id)
        if row is None or endpoint is None or not 0 < row.disabled_generation < endpoint.generation:
            return
        batch = self.store.batch()
        self.put_endpoint_row(batch, endpoint_id, replace(row, disabled_generation=0))
        self.store.write(batch)

    def put_endpoint_row(self, batch: Batch, endpoint_id: str, row: EndpointRow) -> None:
        """Remembers (or, in its normal state, forgets) what is special about an endpoint."""
        if row == EndpointRow():
            self.endpoint_rows.pop(endpoint_id, None)
            batch.delete(Family.ENDPOINTS, endpoint_id.encode())
        else:
            self.endpoint_rows[endpoint_id] = row
            batch.put(Family.ENDPOINTS, endpoint_id.encode(), ENDPOINT_ROW.encode(row))

    # Outbox
    # ---------------------------------------------------------------------------------------------------

    def next_stamp(self) -> RowStamp:
        """Returns the stamp of the next outbox row."""
        self.sequence += 1
        return RowStamp(self.epoch, self.sequence)

    def put_outbox(self, batch: Batch, topic: str, key: bytes, value: bytes) -> None:
        """Writes the outbox row of the stamp that was taken last, and queues its publication."""
        sequence = self.sequence
        batch.put(
            Family.OUTBOX, store_keys.outbox_key(sequence), OUTBOX_ROW.encode(OutboxRow(topic, key, value))
        )
        self.publishes.append(Publish(sequence, topic, key, value))

    def put_stamp(self, batch: Batch) -> None:
        """Writes the last stamp: redo skips what lies at or below it."""
        batch.put(Family.META, store_keys.META_STAMP, STAMP_ROW.encode(RowStamp(self.epoch, self.sequence)))

    # Endpoints
    # ------------------------------------------------------------------------------------------------

    def retry_policy(self, endpoint: Endpoint | None) -> RetryPolicy:
        """Returns the endpoint's schedule, or the default one."""
        return endpoint.retry if endpoint is not None and endpoint.retry is not None else self.policy.retry
