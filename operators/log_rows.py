"""Rows of the delivery log's tables, made from the records of the topics.

A row is a plain tuple in the order of its table's columns; the block goes to the store as it is. This is
the hot path of `record`: an attempt's row is the struct's own fields, copied at once, so the columns of
`attempts` follow `schemas.attempt.Attempt`, and a test holds them together.

A value that its column cannot hold (a wait of more than 71 minutes in 32 bits of microseconds, a time of
the year 3000) must not stop the whole log for ever. `fitted` brings such a row inside the limits; it is
asked only after the store refused a block, so the common path pays nothing.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import json
from msgspec.structs import astuple

from schemas.attempt import Attempt
from schemas.dead_letter import DeadLetter, DeadLetterKey
from schemas.delivery import Delivery
from schemas.event import Event
from schemas.transition import Transition, TransitionKey

Row = tuple[Any, ...]

EVENTS = "events"
DELIVERIES = "deliveries"
TRANSITIONS = "transitions"
ATTEMPTS = "attempts"
DEAD_LETTERS = "dead_letters"

EVENT_COLUMNS = (
    "tenant_id",
    "event_id",
    "type",
    "recorded_at",
    "occurred_at",
    "idempotency_key",
    "data",
    "partition",
    "offset",
)
DELIVERY_COLUMNS = (
    "tenant_id",
    "delivery_id",
    "event_id",
    "endpoint_id",
    "event_type",
    "replay_id",
    "created_at",
    "partition",
    "offset",
)
TRANSITION_COLUMNS = (
    "tenant_id",
    "delivery_id",
    "event_id",
    "endpoint_id",
    "event_type",
    "state",
    "reason",
    "attempt_count",
    "schedule_step",
    "next_attempt_at",
    "at",
    "actor",
    "partition",
    "epoch",
    "sequence",
)
ATTEMPT_COLUMNS = (
    "tenant_id",
    "delivery_id",
    "event_id",
    "endpoint_id",
    "event_type",
    "state",
    "partition",
    "epoch",
    "sequence",
    *(field.removesuffix("_ms") for field in Attempt.__struct_fields__),
)
DEAD_LETTER_COLUMNS = (
    "tenant_id",
    "delivery_id",
    "name",
    "event_id",
    "endpoint_id",
    "event_type",
    "replay_id",
    "reason",
    "at",
    "attempt_count",
    "last_status",
    "last_error_code",
    "body",
    "partition",
    "epoch",
    "sequence",
)
COLUMNS: dict[str, tuple[str, ...]] = {
    EVENTS: EVENT_COLUMNS,
    DELIVERIES: DELIVERY_COLUMNS,
    TRANSITIONS: TRANSITION_COLUMNS,
    ATTEMPTS: ATTEMPT_COLUMNS,
    DEAD_LETTERS: DEAD_LETTER_COLUMNS,
}

TIME_MS_MAX = 10_413_791_999_999
"""The end of 2299, where DateTime64 ends."""
_TIMES = ("recorded_at", "occurred_at", "created_at", "at", "next_attempt_at", "started_at", "finished_at")
_LIMITS: dict[str, int] = (
    dict.fromkeys(_TIMES, TIME_MS_MAX)
    | dict.fromkeys(("offset", "epoch", "sequence"), (1 << 64) - 1)
    | dict.fromkeys(("partition", "number", "attempt_count", "schedule_step"), (1 << 32) - 1)
    | dict.fromkeys(("queued_us", "connect_us", "first_byte_us", "total_us"), (1 << 32) - 1)
    | dict.fromkeys(("status", "last_status", "requests_sent"), (1 << 16) - 1)
)
_NO_HOPS = "[]"
_encode_json = json.Encoder().encode


def event_row(event: Event, event_id: str, partition: int, offset: int, recorded_at_ms: int) -> Row:
    """Returns the row of `events`; `occurred_at` is the producer's word, or the log's when there is none."""
    occurred_at_ms = recorded_at_ms if event.occurred_at_ms is None else event.occurred_at_ms
    return (
        event.tenant_id,
        event_id,
        event.type,
        recorded_at_ms,
        min(max(occurred_at_ms, 0), TIME_MS_MAX),
        event.idempotency_key or "",
        bytes(event.data),
        partition,
        offset,
    )


def delivery_row(delivery: Delivery, partition: int, offset: int, created_at_ms: int) -> Row:
    """Returns the row of `deliveries`."""
    return (
        delivery.tenant_id,
        delivery.id,
        delivery.event_id,
        delivery.endpoint_id,
        delivery.event_type,
        delivery.replay_id,
        created_at_ms,
        partition,
        offset,
    )


def transition_rows(key: TransitionKey, value: Transition, partition: int) -> tuple[Row, Row | None]:
    """Returns the row of `transitions`, and the row of `attempts` when the change ended an attempt."""
    epoch, sequence = key.stamp.epoch, key.stamp.sequence
    changed = (
        value.tenant_id,
        key.delivery_id,
        value.event_id,
        key.endpoint_id,
        value.event_type,
        key.state,
        value.reason,
        key.attempt_count,
        key.schedule_step,
        key.next_attempt_at_ms or None,
        value.at_ms,
        value.actor,
        partition,
        epoch,
        sequence,
    )
    attempt = value.attempt
    if attempt is None:
        return changed, None
    hops = _encode_json(attempt.hops) if attempt.hops else _NO_HOPS
    return changed, (*changed[:6], partition, epoch, sequence, *astuple(attempt)[:-1], hops)


def dead_letter_row(key: DeadLetterKey, value: DeadLetter, partition: int) -> Row:
    """Returns the row of `dead_letters`."""
    delivery = value.delivery
    return (
        delivery.tenant_id,
        delivery.id,
        key.name,
        delivery.event_id,
        delivery.endpoint_id,
        delivery.event_type,
        delivery.replay_id,
        value.reason,
        value.at_ms,
        value.attempt_count,
        value.last_status,
        value.last_error_code,
        delivery.body,
        partition,
        key.stamp.epoch,
        key.stamp.sequence,
    )


def fitted(table: str, rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with every number and time brought inside what its column holds."""
    limits = [_LIMITS.get(column) for column in COLUMNS[table]]
    return [
        tuple(
            [
                value if limit is None or value is None else min(max(value, 0), limit)
                for limit, value in zip(limits, row, strict=True)
            ]
        )
        for row in rows
    ]
