"""Made-up load: endpoints, deliveries and events that look like the real ones, without chance."""

from collections.abc import Iterator

from dataflows.connectors.key_ring import KeyRing
from schemas import ids
from schemas.delivery import Delivery, EventPosition
from schemas.endpoint import Endpoint
from schemas.wire.records import DELIVERY

TENANT = "tenant_bench"
EVENT_TYPE = "order.created"
BODY_BYTES = 1_024


def body_of(size: int = BODY_BYTES) -> bytes:
    """Returns a JSON object of about `size` bytes."""
    return b'{"id":"order_1","text":"' + b"x" * max(size - 26, 0) + b'"}'


def endpoint_id(number: int) -> str:
    """Returns the id of the n-th endpoint, of the length that real ones have."""
    return f"ep_{number:026d}"


def endpoint(number: int, url: str, now_ms: int, key_ring: KeyRing | None = None) -> Endpoint:
    """Returns the n-th endpoint; with a key ring it has a secret."""
    name = endpoint_id(number)
    secrets = (key_ring.seal(b"s" * 32, name),) if key_ring is not None else ()
    return Endpoint(
        id=name,
        tenant_id=TENANT,
        url=url,
        event_types=(EVENT_TYPE,),
        secrets=secrets,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        timeout_ms=10_000,
    )


def delivery(number: int, to_endpoint: str, now_ms: int, body: bytes, matched_at: int = 0) -> Delivery:
    """Returns the n-th delivery."""
    event_id = f"evt_{number:026d}"
    return Delivery(
        ids.delivery_id(event_id, to_endpoint),
        event_id,
        to_endpoint,
        TENANT,
        EVENT_TYPE,
        "",
        body,
        b"01234567",
        now_ms,
        EventPosition(0, number),
        matched_at,
    )


def delivery_values(count: int, endpoint_ids: list[str], now_ms: int, body: bytes) -> Iterator[bytes]:
    """Yields encoded deliveries, the endpoints in turn."""
    for number in range(count):
        yield DELIVERY.encode(delivery(number, endpoint_ids[number % len(endpoint_ids)], now_ms, body))
