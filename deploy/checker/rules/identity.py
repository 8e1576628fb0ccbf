"""Every copy carries the same id, the same bytes and a valid signature, and belongs to its tenant."""

from collections.abc import Iterator

from deploy.checker.flow import Flow
from deploy.checker.history import Arrival, DeliveryRecord, Publish, Record, Result
from deploy.checker.index import Index
from deploy.checker.violation import Violation, ViolationClass
from operators.signing import Verdict

TIMESTAMP_SKEW_MS_MAX = 120_000
"""DESIGN section 5: readiness is refused beyond 2 min; official verifiers refuse beyond 5."""


def bad_signature(index: Index) -> Iterator[Violation]:
    """Yields requests whose signature does not verify, or whose signed time is not that of the attempt."""
    for arrival in index.history.arrivals:
        skew_ms = index.host_time.skew_ms(arrival.received_at_ns, arrival.webhook_timestamp_s * 1_000)
        if arrival.verdict != Verdict.OK:
            detail = f"the witness says {arrival.verdict}"
        elif skew_ms > TIMESTAMP_SKEW_MS_MAX:
            detail = f"the signed time is {skew_ms} ms off, {TIMESTAMP_SKEW_MS_MAX} ms at most"
        else:
            continue
        yield Violation(ViolationClass.BAD_SIGNATURE, arrival.webhook_id, detail, (arrival,))


def id_mismatch(index: Index) -> Iterator[Violation]:
    """Yields other bytes under the same id, a key that named two events, and ids with two contents."""
    for flow in index.flows.values():
        yield from _bodies(flow)
    names: dict[tuple[str, str], Publish] = {}
    contents: dict[str, Publish] = {}
    for publish in index.history.publishes:
        if publish.result is not Result.OK or not publish.event_id:
            continue
        if publish.key:
            known = names.setdefault((publish.tenant_id, publish.key), publish)
            if known.event_id != publish.event_id:
                detail = f"the key {publish.key} named {known.event_id} before"
                yield Violation(ViolationClass.ID_MISMATCH, publish.event_id, detail, (known, publish))
        known = contents.setdefault(publish.event_id, publish)
        if _content(known) != _content(publish):
            detail = "two accepted publishes with different contents have one event id"
            yield Violation(ViolationClass.ID_MISMATCH, publish.event_id, detail, (known, publish))
    by_delivery: dict[str, DeliveryRecord] = {}
    for delivery in index.history.deliveries:
        first = by_delivery.setdefault(delivery.delivery_id, delivery)
        if (first.event_id, first.endpoint_id) != (delivery.event_id, delivery.endpoint_id):
            detail = f"{delivery.delivery_id} names two deliveries"
            yield Violation(ViolationClass.ID_MISMATCH, delivery.delivery_id, detail, (first, delivery))


def cross_tenant(index: Index) -> Iterator[Violation]:
    """Yields events of one tenant that went to an endpoint of another."""
    for flow in index.flows.values():
        life = index.lives.get(flow.endpoint_id)
        if life is None:
            continue
        tenant_id = life.known.tenant_id
        event = index.events.get(flow.event_id)
        others: list[Record] = [d for d in flow.deliveries if d.tenant_id != tenant_id]
        if event is not None:
            others += [publish for publish in event.publishes if publish.tenant_id != tenant_id]
        if others:
            detail = f"the endpoint belongs to {tenant_id}, the event does not"
            records = (life.known, *others[:3], *flow.arrivals[:3])
            yield Violation(ViolationClass.CROSS_TENANT, flow.subject, detail, records)


def _bodies(flow: Flow) -> Iterator[Violation]:
    if not flow.arrivals:
        return
    # A key that was published again, because the first answer was not sure, makes a second record with a
    # later timestamp in its body: it is dropped, and only what was sent has to be the same.
    firsts = {delivery.delivery_id: delivery for delivery in reversed(flow.deliveries)}
    copies: list[DeliveryRecord | Arrival] = [*firsts.values(), *flow.arrivals]
    expected = copies[0]
    for record in copies[1:]:
        if record.body_sha256 != expected.body_sha256:
            detail = "other bytes under the same id"
            yield Violation(ViolationClass.ID_MISMATCH, flow.subject, detail, (expected, record))


def _content(publish: Publish) -> tuple[str, str, str]:
    return publish.tenant_id, publish.event_type, publish.data_sha256
