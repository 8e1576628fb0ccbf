"""What the delivery log shows of an event, a delivery and an attempt: read models for API and portal.

They are not the records: a view joins what several topics said, and its texts stay texts, so that a state
or an error code which a newer process wrote is shown and not refused.
"""

from msgspec import Struct


class EventSummary(Struct, frozen=True, kw_only=True):
    """An event in a list: all but its data, which may be large.

    Attributes:
        recorded_at_ms: when the log took it. `occurred_at_ms`: when the producer says it happened.
        idempotency_key: empty when there was none.
    """

    id: str
    tenant_id: str
    type: str
    recorded_at_ms: int
    occurred_at_ms: int
    idempotency_key: str


class EventView(EventSummary, frozen=True, kw_only=True):
    """An event as it was accepted.

    Attributes:
        data: the accepted JSON bytes.
        partition, offset: where its record stands; 0 while only the process that accepted it knows it.
    """

    data: bytes
    partition: int = 0
    offset: int = 0


class DeliveryView(Struct, frozen=True):
    """A delivery with its last known state.

    Attributes:
        state: of the last transition; `pending` when there is none yet.
        reason: of the last transition; empty when there is none yet.
        next_attempt_at_ms: None when none is planned.
        updated_at_ms: when the state was reached.
        last_status: of the last attempt's response; None without one, then `last_error_code` may say why.
    """

    id: str
    tenant_id: str
    event_id: str
    endpoint_id: str
    event_type: str
    replay_id: str
    shard: int
    state: str
    reason: str
    actor: str
    attempt_count: int
    next_attempt_at_ms: int | None
    created_at_ms: int
    updated_at_ms: int
    last_status: int | None = None
    last_error_code: str = ""


class HopView(Struct, frozen=True):
    """A redirect that was answered on the way."""

    url: str
    status: int
    location: str


class AttemptView(Struct, frozen=True):
    """One recorded attempt. Fields as in `schemas.attempt.Attempt`; `state` is the delivery's after it."""

    id: str
    delivery_id: str
    number: int
    state: str
    started_at_ms: int
    finished_at_ms: int
    url: str
    status: int | None
    error_code: str
    error_detail: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_body_truncated: bool
    queued_us: int
    connect_us: int
    first_byte_us: int
    total_us: int
    peer: str
    is_reused_connection: bool
    requests_sent: int
    after_crash: bool
    hops: tuple[HopView, ...]
