"""A delivery: one event to one endpoint, the value of one record of the `deliveries` topic."""

from enum import IntEnum, StrEnum

from msgspec import Struct


class DeliveryState(StrEnum):
    """Where a delivery stands. The last three are final."""

    PENDING = "pending"
    IN_FLIGHT = "in_flight"
    RETRYING = "retrying"
    HELD = "held"
    DELIVERED = "delivered"
    DEAD_LETTERED = "dead_lettered"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing but a replay may send the delivery again."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({DeliveryState.DELIVERED, DeliveryState.DEAD_LETTERED, DeliveryState.CANCELLED})


class Lane(IntEnum):
    """The three queues of an endpoint. The number is part of the store's key format."""

    FRESH = 0
    RETRY = 1
    REPLAY = 2


class EventPosition(Struct, frozen=True, array_like=True, gc=False):
    """Where an event's record stands in `events`."""

    partition: int
    offset: int


class Delivery(Struct, frozen=True, array_like=True, gc=False):
    """One event on its way to one endpoint, as `route` fanned it out.

    Attributes:
        id: derived, see `schemas.ids.delivery_id`.
        replay_id: empty, or the replay that asked for sending it (again).
        body: the frozen bytes of the request; never re-serialised.
        digest: 8 bytes over the accepted type and data.
        recorded_at_ms: the event's record time in the log; what `seen` and `too_old` count from.
        event_position: where the event's record stands.
        matched_at: the position of `endpoints` that the matching view had reached.
    """

    id: str
    event_id: str
    endpoint_id: str
    tenant_id: str
    event_type: str
    replay_id: str
    body: bytes
    digest: bytes
    recorded_at_ms: int
    event_position: EventPosition
    matched_at: int
