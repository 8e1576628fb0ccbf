"""An event: what a producer published, as it stands in the `events` topic.

The value is JSON, because anybody's Kafka client may write it; unknown fields are ignored there (the producer
may be newer than we are), while the API refuses them. `data` is kept as the bytes that came: they are frozen
into the body at fan-out and never parsed again.
"""

from msgspec import Raw, Struct

EVENT_TYPE_PATTERN = r"^[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*$"
EVENT_TYPE_CHARS_MAX = 128


class Event(Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """The value of one record of `events`.

    Attributes:
        tenant_id: who owns it; this field counts, not the record's key.
        type: the event type, `EVENT_TYPE_PATTERN`, at most `EVENT_TYPE_CHARS_MAX` characters.
        data: the payload, the JSON bytes as they were accepted.
        id: set by the API; without it the idempotency key, else the record's position, names the event.
        idempotency_key: names one event for ever within its tenant; 1-255 visible ASCII characters.
        occurred_at_ms: when the producer says it happened; without it the log's append time stands.
        endpoint_ids: only these endpoints, when given; else whoever subscribed.
        v: version tag of this format.
    """

    tenant_id: str
    type: str
    data: Raw
    id: str | None = None
    idempotency_key: str | None = None
    occurred_at_ms: int | None = None
    endpoint_ids: tuple[str, ...] | None = None
    v: int = 1
