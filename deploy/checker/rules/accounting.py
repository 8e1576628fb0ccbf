"""Every accepted event has come to an end that can be shown; nothing else was sent.

An end is a 2xx that the witness answered, a dead letter whose reason the history bears out, or a cancel that
somebody asked for. A transition that says `delivered` is no end by itself: the witness has to have seen it.
"""

from collections import Counter
from collections.abc import Iterator

from deploy.checker.endpoint_life import EndpointLife
from deploy.checker.flow import Flow
from deploy.checker.history import (
    Action,
    Arrival,
    DeadLetterRecord,
    FaultKind,
    Publish,
    Record,
    Result,
    Source,
)
from deploy.checker.host_time import NS_PER_MS
from deploy.checker.index import Index
from deploy.checker.violation import Violation, ViolationClass
from schemas.delivery import DeliveryState
from schemas.transition import Reason

_TOO_OLD_MS = 7 * 24 * 3_600_000
"""DESIGN section 3: an unknown delivery counts as too old when its event is more than 7 d behind."""

_LATER_ENDS = frozenset({Reason.EXPIRED, Reason.EXPIRED_WHILE_HELD})


def lost(index: Index) -> Iterator[Violation]:
    """Yields the deliveries that are neither sent, nor a dead letter, nor cancelled by somebody."""
    cancelled = {
        control.delivery_id
        for control in index.history.controls
        if control.action is Action.CANCEL and control.result is not Result.FAIL
    }
    alive = {row.delivery_id for row in index.history.store_rows if row.has_row}
    for event in index.events.values():
        publish = event.accepted
        if publish is None and event.is_possible:
            # It may have happened; when anything of it is there, it has, and then for every endpoint.
            first = event.publishes[0]
            subscribers = index.subscribers(first.tenant_id, first.event_type)
            is_here = any((event.event_id, life.known.endpoint_id) in index.flows for life in subscribers)
            publish = next((p for p in event.publishes if is_here and p.result is Result.INFO), None)
        if publish is None:
            continue
        for life in index.subscribers(publish.tenant_id, publish.event_type):
            if not _must_match(life, event.publishes[0].invoked_at_ns):
                continue
            flow = index.flows.get((event.event_id, life.known.endpoint_id))
            if flow is None:
                flow = Flow(event.event_id, life.known.endpoint_id)
            missing = _what_is_missing(index, flow, life, cancelled, alive)
            if missing:
                records: tuple[Record, ...] = (publish, *flow.deliveries, *flow.arrivals, *flow.transitions)
                records += tuple(flow.dead_letters)
                yield Violation(ViolationClass.LOST, flow.subject, missing, records)


def ghost(index: Index) -> Iterator[Violation]:
    """Yields requests that nobody asked for."""
    for arrival in index.astray:
        detail = f"no endpoint has the path {arrival.path}"
        yield Violation(ViolationClass.GHOST, arrival.webhook_id, detail, (arrival,))
    unnamed: Counter[str] = Counter()
    seen: set[str] = set()
    for flow in index.flows.values():
        if not flow.arrivals:
            continue
        first = flow.arrivals[0]
        life = index.lives[flow.endpoint_id]
        tenant_id = life.known.tenant_id
        event = index.events.get(flow.event_id)
        if event is None:
            if flow.event_id not in seen:
                seen.add(flow.event_id)
                unnamed[tenant_id] += 1
            if unnamed[tenant_id] > index.unnamed[tenant_id]:
                detail = "sent, and no publish names this event"
                yield Violation(ViolationClass.GHOST, flow.subject, detail, (first,))
            continue
        named: tuple[Publish | Arrival, ...] = (*event.publishes[:3], first)
        if not event.is_possible:
            detail = "sent, and its publish was refused"
            yield Violation(ViolationClass.GHOST, flow.subject, detail, named)
        elif life not in index.subscribers(tenant_id, event.publishes[0].event_type):
            detail = f"sent, and {event.publishes[0].event_type} matches none of {life.known.patterns}"
            yield Violation(ViolationClass.GHOST, flow.subject, detail, (*named, life.known))
        elif first.received_at_ns < event.publishes[0].invoked_at_ns:
            yield Violation(ViolationClass.GHOST, flow.subject, "sent before it was published", named)


def _must_match(life: EndpointLife, published_at_ns: int) -> bool:
    """Whether the endpoint surely was there, and surely not deleted, when the event was published."""
    return life.known.created_at_ns <= published_at_ns and life.delete_asked_at_ns is None


def _what_is_missing(
    index: Index,
    flow: Flow,
    life: EndpointLife,
    cancelled: set[str],
    alive: set[str],
) -> str:
    """Returns what is wrong with a delivery's end, empty when nothing is."""
    statuses = [arrival.status for arrival in flow.arrivals if arrival.is_answer_written]
    if any(status is not None and 200 <= status <= 299 for status in statuses):
        return ""
    letters = [letter for letter in flow.dead_letters if letter.name == letter.delivery_id]
    letters += [letter for letter in flow.dead_letters if letter.reason == Reason.TOO_OLD]
    if letters:
        return _why_not_due(index, flow, letters[0])
    last = flow.transitions[-1] if flow.transitions else None
    if last is not None and last.state == DeliveryState.CANCELLED:
        return "" if last.delivery_id in cancelled else f"cancelled ({last.reason}), and nobody asked for it"
    if last is not None and last.state == DeliveryState.DELIVERED:
        return "recorded as delivered, and the witness never answered it with a 2xx"
    if last is not None and last.state == DeliveryState.DEAD_LETTERED:
        return f"recorded as a dead letter ({last.reason}), and the dead letter is not there"
    if _may_live(index, flow, life, alive):
        return ""
    attempts = f"{len(flow.arrivals)} arrivals, last state {last.state if last else 'none'}"
    return f"accepted, and neither delivered nor a dead letter nor cancelled ({attempts})"


def _is_permanent(status: int | None) -> bool:
    return status is not None and 400 <= status <= 499 and status not in (408, 410, 429)


def _may_live(index: Index, flow: Flow, life: EndpointLife, alive: set[str]) -> bool:
    """Whether a delivery without an end may be on its way: the run did not wait, or its endpoint is shut."""
    if index.run.is_drained and not life.may_be_shut_at_end:
        return False
    if any(delivery.delivery_id in alive for delivery in flow.deliveries):
        return True
    if not index.run.is_drained and not flow.transitions:
        return True  # not fanned out yet, or waiting in the log
    return Source.STORE in index.run.declined and bool(flow.deliveries)


def _why_not_due(index: Index, flow: Flow, letter: DeadLetterRecord) -> str:
    """Returns why this dead letter came without cause, empty when it has one."""
    reason = letter.reason
    is_stepped = any(fault.kind is FaultKind.CLOCK_STEP for fault in index.history.faults)
    event = index.events[flow.event_id]
    first = next(publish for publish in event.publishes if publish.result is not Result.FAIL)
    at_ms = max((t.at_ms for t in flow.transitions if t.delivery_id == letter.delivery_id), default=0)
    at_ns = max(index.host_time.moments_ns(at_ms), default=index.ended_at_ns)
    lasted_ms = (at_ns - first.invoked_at_ns) // NS_PER_MS
    statuses = {pair.attempt.status for pair in flow.pairs}
    if reason in _LATER_ENDS and not is_stepped and lasted_ms < index.window_ms(flow.endpoint_id):
        return f"dead letter {reason} {lasted_ms} ms after its publish, before its window has ended"
    if reason == Reason.TOO_OLD and not is_stepped and lasted_ms < _TOO_OLD_MS:
        return f"dead letter {reason} {lasted_ms} ms after its publish"
    if reason == Reason.PERMANENT_STATUS and not any(_is_permanent(status) for status in statuses):
        return f"dead letter {reason}, and no attempt came to a 4xx that is final"
    if reason == Reason.ENDPOINT_GONE and 410 not in statuses:
        return f"dead letter {reason}, and no attempt came to 410"
    if reason == Reason.RETRIES_EXHAUSTED:
        delays_ms = index.delays_ms(flow.endpoint_id)
        is_over = is_stepped or lasted_ms >= index.window_ms(flow.endpoint_id)
        if delays_ms and letter.attempt_count <= len(delays_ms) and not is_over:
            return f"dead letter {reason} after {letter.attempt_count} of {len(delays_ms) + 1} attempts"
    return ""
