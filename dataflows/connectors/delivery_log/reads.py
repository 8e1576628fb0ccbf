"""What the API reads from the delivery log: an event, its deliveries, one delivery, its attempts.

Rows of a ReplacingMergeTree may stand twice until a merge, so every statement says itself which of them
counts (`LIMIT 1 BY`, the first record of an event or delivery, the last transition), and `FINAL` is not
needed. A delivery's state is its last transition by (epoch, sequence); without one it is pending. There are
no joins: the second statement asks for the ids of the first one's page, which the primary key serves.

`tenant_id` None is the admin's view over all tenants; a foreign id is simply not found.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from dataflows.connectors.delivery_log.port import DeliveryLog
from schemas.delivery import DeliveryState
from schemas.delivery_view import AttemptView, DeliveryView, EventView, HopView

ATTEMPTS_MAX = 1_000
"""A delivery has about ten attempts in its 72 hours; probes and retries asked for by people come on top."""

EVENT = """
SELECT tenant_id, event_id, type, hex(data) AS data_hex, recorded_at, occurred_at, idempotency_key,
    partition, offset
FROM events
WHERE event_id = {event:String} AND /*tenant*/
ORDER BY recorded_at, partition, offset
LIMIT 1
"""
DELIVERIES_OF_EVENT = """
SELECT tenant_id, delivery_id, event_id, endpoint_id, event_type, replay_id, created_at, partition
FROM deliveries
WHERE event_id = {event:String} AND delivery_id > {after:String} AND /*tenant*/
ORDER BY delivery_id, created_at, offset
LIMIT 1 BY tenant_id, delivery_id
LIMIT {limit:UInt32}
"""
DELIVERY = """
SELECT tenant_id, delivery_id, event_id, endpoint_id, event_type, replay_id, created_at, partition
FROM deliveries
WHERE delivery_id = {delivery:String} AND /*tenant*/
ORDER BY created_at, offset
LIMIT 1
"""
# The record of a delivery and its first transition travel in two topics: the second may be here first.
FIRST_TRANSITION = """
SELECT tenant_id, delivery_id, event_id, endpoint_id, event_type, '' AS replay_id, at AS created_at, partition
FROM transitions
WHERE delivery_id = {delivery:String} AND /*tenant*/
ORDER BY epoch, sequence
LIMIT 1
"""
LAST_TRANSITIONS = """
SELECT delivery_id, state, reason, actor, attempt_count, next_attempt_at, at
FROM transitions
WHERE tenant_id IN {tenants:Array(String)} AND delivery_id IN {deliveries:Array(String)}
ORDER BY delivery_id, epoch DESC, sequence DESC
LIMIT 1 BY delivery_id
"""
LAST_ATTEMPTS = """
SELECT delivery_id, status, error_code
FROM attempts
WHERE tenant_id IN {tenants:Array(String)} AND delivery_id IN {deliveries:Array(String)}
ORDER BY delivery_id, number DESC, started_at DESC, epoch DESC, sequence DESC
LIMIT 1 BY delivery_id
"""
ATTEMPTS = """
SELECT attempt_id, delivery_id, number, state, started_at, finished_at, url, status, error_code, error_detail,
    headers, hex(body) AS body_hex, is_body_truncated, queued_us, connect_us, first_byte_us,
    total_us, peer, is_reused_connection, requests_sent, after_crash, hops
FROM attempts
WHERE delivery_id = {delivery:String} AND /*tenant*/
ORDER BY number, started_at, epoch, sequence
LIMIT 1 BY number, started_at
LIMIT {limit:UInt32}
"""
_TENANT = "/*tenant*/"
_hops = msgspec.json.Decoder(tuple[tuple[str, int, str], ...]).decode


def event(log: DeliveryLog, tenant_id: str | None, event_id: str) -> EventView | None:
    """Returns an event, or None when the log does not have it (yet)."""
    rows = _ask(log, EVENT, tenant_id, {"event": event_id})
    if not rows:
        return None
    row = rows[0]
    return EventView(
        id=row["event_id"],
        tenant_id=row["tenant_id"],
        type=row["type"],
        data=bytes.fromhex(row["data_hex"]),
        recorded_at_ms=row["recorded_at"],
        occurred_at_ms=row["occurred_at"],
        idempotency_key=row["idempotency_key"],
        partition=row["partition"],
        offset=row["offset"],
    )


def deliveries_of_event(
    log: DeliveryLog, tenant_id: str | None, event_id: str, after: str, limit: int
) -> list[DeliveryView]:
    """Returns a page of an event's deliveries in the order of their ids.

    Args:
        after: the last id of the page before; empty for the first page.
        limit: rows at most.
    """
    found = _ask(log, DELIVERIES_OF_EVENT, tenant_id, {"event": event_id, "after": after, "limit": limit})
    return with_states(log, found)


def delivery(log: DeliveryLog, tenant_id: str | None, delivery_id: str) -> DeliveryView | None:
    """Returns a delivery, or None when the log does not have it (yet)."""
    found = _ask(log, DELIVERY, tenant_id, {"delivery": delivery_id})
    if not found:
        found = _ask(log, FIRST_TRANSITION, tenant_id, {"delivery": delivery_id})
    return next(iter(with_states(log, found)), None)


def attempts_of(log: DeliveryLog, tenant_id: str | None, delivery_id: str) -> list[AttemptView]:
    """Returns a delivery's attempts in the order of their numbers, at most `ATTEMPTS_MAX`."""
    rows = _ask(log, ATTEMPTS, tenant_id, {"delivery": delivery_id, "limit": ATTEMPTS_MAX})
    return [_attempt(row) for row in rows]


def with_states(log: DeliveryLog, found: Sequence[dict[str, Any]]) -> list[DeliveryView]:
    """Returns rows of `deliveries` with what their last transition and attempt say, in the same order."""
    if not found:
        return []
    of = {"tenants": sorted({row["tenant_id"] for row in found})}
    last = log.query(LAST_TRANSITIONS, of | {"deliveries": [row["delivery_id"] for row in found]})
    states = {row["delivery_id"]: row for row in last}
    tried = [name for name, row in states.items() if row["attempt_count"]]
    last = log.query(LAST_ATTEMPTS, of | {"deliveries": tried}) if tried else []
    attempts = {row["delivery_id"]: row for row in last}
    return [_delivery(row, states.get(row["delivery_id"]), attempts.get(row["delivery_id"])) for row in found]


def _ask(
    log: DeliveryLog, sql: str, tenant_id: str | None, parameters: dict[str, Any]
) -> list[dict[str, Any]]:
    if tenant_id is None:
        return log.query(sql.replace(_TENANT, "true"), parameters)
    return log.query(sql.replace(_TENANT, "tenant_id = {tenant:String}"), parameters | {"tenant": tenant_id})


def _delivery(
    row: dict[str, Any], last: dict[str, Any] | None, attempt: dict[str, Any] | None
) -> DeliveryView:
    return DeliveryView(
        id=row["delivery_id"],
        tenant_id=row["tenant_id"],
        event_id=row["event_id"],
        endpoint_id=row["endpoint_id"],
        event_type=row["event_type"],
        replay_id=row["replay_id"],
        shard=row["partition"],
        state=last["state"] if last else DeliveryState.PENDING.value,
        reason=last["reason"] if last else "",
        actor=last["actor"] if last else "",
        attempt_count=last["attempt_count"] if last else 0,
        next_attempt_at_ms=last["next_attempt_at"] if last else None,
        created_at_ms=row["created_at"],
        updated_at_ms=last["at"] if last else row["created_at"],
        last_status=attempt["status"] if attempt else None,
        last_error_code=attempt["error_code"] if attempt else "",
    )


def _attempt(row: dict[str, Any]) -> AttemptView:
    return AttemptView(
        id=row["attempt_id"],
        delivery_id=row["delivery_id"],
        number=row["number"],
        state=row["state"],
        started_at_ms=row["started_at"],
        finished_at_ms=row["finished_at"],
        url=row["url"],
        status=row["status"],
        error_code=row["error_code"],
        error_detail=row["error_detail"],
        headers=tuple([(name, value) for name, value in row["headers"]]),
        body=bytes.fromhex(row["body_hex"]),
        is_body_truncated=row["is_body_truncated"],
        queued_us=row["queued_us"],
        connect_us=row["connect_us"],
        first_byte_us=row["first_byte_us"],
        total_us=row["total_us"],
        peer=row["peer"],
        is_reused_connection=row["is_reused_connection"],
        requests_sent=row["requests_sent"],
        after_crash=row["after_crash"],
        hops=tuple([HopView(*hop) for hop in _hops(row["hops"])]),
    )
