"""Retries keep their schedule, and attempts are numbered without a gap.

Earliness is measured between the witness's own stamps, so no clock of Hooktide can hide it: the next request
came in at least the delay after the answer to the last one. Lateness is excused by outages, by a shut
endpoint and by Retry-After; then it is measured from their end.
"""

from collections import defaultdict
from collections.abc import Iterator

from deploy.checker.flow import FINAL, Flow, Pair
from deploy.checker.history import Action, Record, Result, TransitionRecord
from deploy.checker.host_time import NS_PER_MS
from deploy.checker.index import Index
from deploy.checker.outages import is_excused
from deploy.checker.violation import Violation, ViolationClass
from schemas.delivery import DeliveryState


def early_retry(index: Index) -> Iterator[Violation]:
    """Yields retries that came in before their delay, or before what the receiver asked for."""
    hastened: dict[str, list[int]] = defaultdict(list)
    for control in index.history.controls:
        if control.action is Action.RETRY_NOW and control.result is not Result.FAIL:
            hastened[control.delivery_id].append(control.invoked_at_ns)
    tolerance_ns = index.run.clock_tolerance_ms * NS_PER_MS
    for flow in index.flows.values():
        for pair, came_ns, record in _retries(index, flow):
            if not pair.arrivals:
                continue
            answered_ns = pair.arrivals[-1].answered_at_ns
            if pair.attempt.status is None or answered_ns is None:
                answered_ns = pair.arrivals[-1].received_at_ns
            wait_ms = _wait_ms(index, flow, pair)
            if wait_ms is None or came_ns - answered_ns >= wait_ms * NS_PER_MS - tolerance_ns:
                continue
            window_ns = index.window_ms(flow.endpoint_id) * NS_PER_MS
            if came_ns - _published_ns(index, flow) >= window_ns - tolerance_ns:
                continue  # the last attempt is clipped to the window's end
            asked = hastened.get(pair.transition.delivery_id, ())
            if any(answered_ns <= asked_ns <= came_ns for asked_ns in asked):
                continue
            detail = f"came {(came_ns - answered_ns) // NS_PER_MS} ms after the answer, {wait_ms} ms at least"
            records = (*pair.arrivals, pair.transition, record)
            yield Violation(ViolationClass.EARLY_RETRY, flow.subject, detail, records)


def late_retry(index: Index) -> Iterator[Violation]:
    """Yields retries that came too late without an excuse, or not at all in a run that did not drain."""
    run = index.run
    slack_ns = run.late_slack_ms * NS_PER_MS
    for flow in index.flows.values():
        life = index.lives.get(flow.endpoint_id)
        if life is None:
            continue
        excuses = (index.outages.excuse, life.held)
        for pair, came_ns, record in _retries(index, flow):
            ended_ns, latest_ns = _latest_ns(index, flow, pair)
            if is_excused(ended_ns, latest_ns + slack_ns, slack_ns, came_ns, *excuses):
                continue
            late_ms = (came_ns - latest_ns) // NS_PER_MS
            detail = f"started {late_ms} ms after its latest time, at most {run.late_slack_ms} ms are excused"
            yield Violation(
                ViolationClass.LATE_RETRY, flow.subject, detail, (*pair.arrivals, pair.transition, record)
            )
        last = flow.pairs[-1] if flow.pairs else None
        if last is None or run.is_drained or flow.transitions[-1].state in FINAL:
            continue  # drained: what never came is lost
        if last.arrivals and last.arrivals[-1] is not flow.arrivals[-1]:
            continue
        ended_ns, latest_ns = _latest_ns(index, flow, last)
        if not is_excused(ended_ns, latest_ns + slack_ns, slack_ns, index.ended_at_ns, *excuses):
            detail = "due long before the run's end, and never sent"
            yield Violation(
                ViolationClass.LATE_RETRY, flow.subject, detail, (*last.arrivals, last.transition)
            )


def attempt_gap(index: Index) -> Iterator[Violation]:
    """Yields deliveries whose attempts are not numbered 1, 2, 3, or whose counts disagree with them."""
    for flow in index.flows.values():
        counted: dict[str, TransitionRecord] = {}
        for transition in flow.transitions:
            before = counted.get(transition.delivery_id)
            counted[transition.delivery_id] = transition
            count = before.attempt_count if before is not None else 0
            step = before.schedule_step if before is not None else 0
            attempt = transition.attempt
            expected = count if attempt is None else count + 1
            number = expected if attempt is None else attempt.number
            records = (transition,) if before is None else (before, transition)
            if number != expected or transition.attempt_count != expected:
                detail = f"attempt {number} of {transition.attempt_count}, {expected} was next"
                yield Violation(ViolationClass.ATTEMPT_GAP, flow.subject, detail, records)
            elif not step <= transition.schedule_step <= transition.attempt_count:
                detail = f"schedule step {transition.schedule_step} after {step}"
                yield Violation(ViolationClass.ATTEMPT_GAP, flow.subject, detail, records)


def _retries(index: Index, flow: Flow) -> Iterator[tuple[Pair, int, Record]]:
    """Yields a failed attempt, when its delivery was next tried, and the record that shows it.

    The next try may have been cut by an outage: then its arrival counts, though no attempt tells of it. In a
    flow with replays strays belong to nobody in particular, and only attempts count.
    """
    if len(flow.pairs) + len(flow.strays) < 2:
        return
    by_delivery: dict[str, list[Pair]] = defaultdict(list)
    for pair in flow.pairs:
        by_delivery[pair.transition.delivery_id].append(pair)
    strays = [] if len(by_delivery) > 1 or flow.is_replayed else flow.strays
    for pairs in by_delivery.values():
        for place, pair in enumerate(pairs):
            if pair.transition.state != DeliveryState.RETRYING:
                continue
            came_ns: int | None = None
            record: Record | None = None
            following = pairs[place + 1] if place + 1 < len(pairs) else None
            if following is not None:
                came_ns, record = _started_ns(index, following), following.transition
            since_ns = pair.arrivals[-1].received_at_ns if pair.arrivals else _started_ns(index, pair)
            if since_ns is None or (following is not None and came_ns is None):
                continue
            for stray in strays:
                at_ns = stray.arrival.received_at_ns
                if since_ns < at_ns and (came_ns is None or at_ns < came_ns):
                    came_ns, record = at_ns, stray.arrival
            if came_ns is not None and record is not None:
                yield pair, came_ns, record


def _started_ns(index: Index, pair: Pair) -> int | None:
    """Returns when an attempt started; None when only a stepped clock tells, and not clearly."""
    if pair.arrivals:
        return pair.arrivals[0].received_at_ns
    moments = index.host_time.moments_ns(pair.attempt.started_at_ms)
    return moments[0] if len(moments) == 1 else None


def _wait_ms(index: Index, flow: Flow, pair: Pair) -> int | None:
    """Returns the shortest wait after a failed attempt, None when the schedule does not say."""
    delays_ms = index.delays_ms(flow.endpoint_id)
    step = pair.transition.schedule_step
    if not 1 <= step <= len(delays_ms):
        return None
    asked_ms = pair.arrivals[-1].retry_after_ms if pair.arrivals and pair.attempt.status else 0
    return max(delays_ms[step - 1], min(asked_ms, index.window_ms(flow.endpoint_id)))


def _latest_ns(index: Index, flow: Flow, pair: Pair) -> tuple[int, int]:
    """Returns when an attempt ended at the latest, and when the next one is due at the latest."""
    duration_ms = pair.attempt.finished_at_ms - pair.attempt.started_at_ms
    started_ns = _started_ns(index, pair)
    ended_ns = (started_ns if started_ns is not None else index.ended_at_ns) + duration_ms * NS_PER_MS
    wait_ms = _wait_ms(index, flow, pair) or 0
    return ended_ns, ended_ns + int(wait_ms * (1 + index.run.jitter_share)) * NS_PER_MS


def _published_ns(index: Index, flow: Flow) -> int:
    """Returns when the window may have begun; an unsure publish without key does not name its event."""
    event = index.events.get(flow.event_id)
    return event.publishes[0].invoked_at_ns if event is not None else index.run.started_at_ns
