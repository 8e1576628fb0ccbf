"""The values of a shard's store, with their version tags.

| letter | row | family |
|---|---|---|
| p | PendingRow | `pending` |
| s | SeenRow | `seen.<generation>` |
| o | OutboxRow | `outbox` |
| e | EndpointRow | `endpoints` |
| m | PositionRow | `meta` / `position` |
| k | RowStamp | `meta` / `stamp` |
"""

from msgspec import Struct

from schemas.delivery import Delivery, DeliveryState, Lane
from schemas.outcome import ErrorCode
from schemas.transition import RowStamp
from schemas.wire.frame import Frame


class PendingRow(Struct, frozen=True, array_like=True, gc=False):
    """A delivery that waits, with all it takes to go on.

    Attributes:
        fanned_out_at_ms: its record's time in `deliveries`; the window counts from it.
        next_attempt_at_ms: 0 when it is in `ready`; else the time in its `due` key.
        written_by: the owner epoch that wrote the row: a row in `ready` from an earlier one may have been in
            flight.
        may_have_been_sent: the next attempt may already have been sent, and its end was not recorded.
        cancelled_by: who cancelled it while it was in flight; it ends with that attempt, or after
            a crash without another.
    """

    delivery: Delivery
    offset: int
    lane: Lane
    fanned_out_at_ms: int
    attempt_count: int
    schedule_step: int
    next_attempt_at_ms: int
    last_status: int | None
    last_error_code: ErrorCode
    written_by: int
    may_have_been_sent: bool = False
    cancelled_by: str | None = None


class SeenRow(Struct, frozen=True, array_like=True, gc=False):
    """What a shard remembers of a delivery id.

    Attributes:
        has_row: whether `pending` holds it (then endpoint, lane and offset lead there).
    """

    state: DeliveryState
    digest: bytes
    endpoint_id: str
    lane: Lane
    offset: int
    has_row: bool
    attempt_count: int = 0
    schedule_step: int = 0
    next_attempt_at_ms: int = 0


class OutboxRow(Struct, frozen=True, array_like=True, gc=False):
    """A record that its topic has not acknowledged yet."""

    topic: str
    key: bytes
    value: bytes


class EndpointRow(Struct, frozen=True, array_like=True, gc=False):
    """What a shard remembers of an endpoint that is not in its normal state.

    Attributes:
        paused_until_ms: a Retry-After; 0 when there is none.
        disabled_generation: the generation that a 410 disabled; 0 when there is none.
    """

    paused_until_ms: int = 0
    disabled_generation: int = 0


class PositionRow(Struct, frozen=True, array_like=True, gc=False):
    """Where the store stands, written by the barrier.

    Attributes:
        deliveries_offset: the next record of `deliveries` to take.
        transitions_position, dead_letters_position: everything of ours below them is in the store and
            acknowledged.
        published_sequence: outbox rows up to it are acknowledged and trimmed.
        highest_recorded_at_ms: the newest event record time seen.
        owner_epoch: of the owner that wrote this.
        barrier: counts up, for the stamp on the mirrored group offset.
        is_clean: written by a graceful stop with nothing in flight.
    """

    deliveries_offset: int
    transitions_position: int
    dead_letters_position: int
    published_sequence: int
    highest_recorded_at_ms: int
    owner_epoch: int
    barrier: int
    is_clean: bool


PENDING_ROW = Frame("p", 1, PendingRow)
SEEN_ROW = Frame("s", 1, SeenRow)
OUTBOX_ROW = Frame("o", 1, OutboxRow)
ENDPOINT_ROW = Frame("e", 1, EndpointRow)
POSITION_ROW = Frame("m", 1, PositionRow)
STAMP_ROW = Frame("k", 1, RowStamp)
