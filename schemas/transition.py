"""A transition: a change of a delivery's state, and how a shard remembers its past.

Everything redo needs stands in the record's key, so that a start after damage reads keys only. The value is
for the
delivery log: who, what, and the attempt when there was one.
"""

from enum import StrEnum

from msgspec import Struct

from schemas.attempt import Attempt
from schemas.delivery import DeliveryState, Lane


class Reason(StrEnum):
    """Why a delivery is where it is; a closed list, shown to customers."""

    DELIVERED = "delivered"
    FAILED = "attempt_failed"
    RETRIES_EXHAUSTED = "retries_exhausted"
    PERMANENT_STATUS = "permanent_status"
    ENDPOINT_GONE = "endpoint_gone"
    EXPIRED = "expired"
    EXPIRED_WHILE_HELD = "expired_while_held"
    TOO_OLD = "too_old"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    POISON = "poison"
    ENDPOINT_DELETED = "endpoint_deleted"
    CANCELLED_BY_PERSON = "cancelled_by_person"
    RETRY_REQUESTED = "retry_requested"


class RowStamp(Struct, frozen=True, array_like=True, order=True, gc=False):
    """Names one outbox row for ever: the owner's epoch it was written under, and its sequence."""

    epoch: int
    sequence: int


class TransitionKey(Struct, frozen=True, array_like=True, gc=False):
    """The key of a record of `transitions`: enough to redo the change in a store that has not seen it.

    Attributes:
        stamp: at or below the store's last written stamp it is skipped.
        offset: of the delivery's record in `deliveries`.
        attempt_count: so far; `schedule_step` counts only those that advance the schedule.
        next_attempt_at_ms: 0 when there is none.
        digest: of the accepted content, for `seen`.
        recorded_at_ms: the event's record time, for the generation of `seen`.
    """

    delivery_id: str
    stamp: RowStamp
    endpoint_id: str
    lane: Lane
    offset: int
    state: DeliveryState
    attempt_count: int
    schedule_step: int
    next_attempt_at_ms: int
    digest: bytes
    recorded_at_ms: int


class Transition(Struct, frozen=True, array_like=True, gc=False):
    """The value of a record of `transitions`.

    Attributes:
        at_ms: when it happened, by the owner's clock.
        attempt: when the change ended one.
        actor: who asked, for changes that a person caused.
    """

    event_id: str
    tenant_id: str
    event_type: str
    replay_id: str
    reason: Reason
    at_ms: int
    attempt: Attempt | None = None
    actor: str = ""
