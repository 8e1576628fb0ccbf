"""Fan-out: one event and the endpoints it matches become one delivery each, on the shard of its endpoint.

Everything in a delivery is derived (ids from their parts, times from the log), so fanning the same record
out again gives the same deliveries, and `deliver` recognises them. The body is rendered once per
`api_version` and shared.
"""

from collections.abc import Iterable

from msgspec import Struct

from operators.body_format import render
from operators.endpoint_index import Subscriber
from schemas.delivery import Delivery, EventPosition
from schemas.event import Event
from schemas.ids import content_digest, delivery_id, partition_of


class FrozenEvent(Struct, frozen=True, gc=False):
    """An event whose id and bodies are settled.

    Attributes:
        bodies: the rendered bytes by `api_version`, for every version the subscribers want.
        digest: over the accepted type and data, never over rendered bytes.
    """

    id: str
    tenant_id: str
    type: str
    recorded_at_ms: int
    position: EventPosition
    bodies: dict[str, bytes]
    digest: bytes


def freeze(
    event: Event,
    event_id: str,
    recorded_at_ms: int,
    position: EventPosition,
    api_versions: Iterable[str],
) -> FrozenEvent:
    """Returns the event with its body rendered once for each of the versions."""
    at_ms = recorded_at_ms if event.occurred_at_ms is None else event.occurred_at_ms
    data = bytes(event.data)
    return FrozenEvent(
        event_id,
        event.tenant_id,
        event.type,
        recorded_at_ms,
        position,
        {version: render(event_id, event.type, at_ms, version, data) for version in api_versions},
        content_digest(event.type, data),
    )


def fan_out(
    frozen: FrozenEvent,
    subscribers: Iterable[Subscriber],
    shard_count: int,
    matched_at: int,
) -> list[tuple[int, Delivery]]:
    """Returns (shard, delivery) for every subscriber, in their order.

    Args:
        shard_count: partitions of `deliveries`.
        matched_at: the position of `endpoints` that the matching index had reached.
    """
    return [
        (
            partition_of(one.endpoint_id, shard_count),
            Delivery(
                delivery_id(frozen.id, one.endpoint_id),
                frozen.id,
                one.endpoint_id,
                frozen.tenant_id,
                frozen.type,
                "",
                frozen.bodies[one.api_version],
                frozen.digest,
                frozen.recorded_at_ms,
                frozen.position,
                matched_at,
            ),
        )
        for one in subscribers
    ]
