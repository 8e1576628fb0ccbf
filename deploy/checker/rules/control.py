"""What a person switched off stays off: nothing is sent later than the slack after the API's answer.

The slack starts again when an outage ends: a process that was stopped or down reads the change on its return.
"""

from collections.abc import Iterator

from deploy.checker.endpoint_life import Interval, Shut
from deploy.checker.history import Arrival
from deploy.checker.host_time import NS_PER_MS
from deploy.checker.index import Index
from deploy.checker.outages import is_excused
from deploy.checker.violation import Violation, ViolationClass


def after_disable(index: Index) -> Iterator[Violation]:
    """Yields what was sent to a disabled endpoint, also to one that answered 410."""
    return _sent_while(index, Shut.DISABLED, ViolationClass.AFTER_DISABLE)


def after_delete(index: Index) -> Iterator[Violation]:
    """Yields what was sent to a deleted endpoint."""
    return _sent_while(index, Shut.DELETED, ViolationClass.AFTER_DELETE)


def sent_while_paused(index: Index) -> Iterator[Violation]:
    """Yields what was sent to a paused endpoint."""
    return _sent_while(index, Shut.PAUSED, ViolationClass.SENT_WHILE_PAUSED)


def _sent_while(index: Index, why: Shut, kind: ViolationClass) -> Iterator[Violation]:
    for endpoint_id, life in index.lives.items():
        intervals = [interval for interval in life.shut if interval.why is why]
        if not intervals:
            continue
        place = 0
        for arrival in index.arrivals_at[endpoint_id]:
            at_ns = arrival.received_at_ns
            while place + 1 < len(intervals) and intervals[place + 1].since_ns <= at_ns:
                place += 1
            if _is_shut(index, intervals[place], arrival):
                late_ms = (at_ns - intervals[place].since_ns) // NS_PER_MS
                detail = f"sent {late_ms} ms after it was {why}, at most {index.run.control_slack_ms} ms"
                control = intervals[place].control
                records = (arrival,) if control is None else (control, arrival)
                yield Violation(kind, f"{arrival.webhook_id} -> {endpoint_id}", detail, records)


def _is_shut(index: Index, interval: Interval, arrival: Arrival) -> bool:
    at_ns = arrival.received_at_ns
    if not interval.since_ns < at_ns < interval.until_ns:
        return False
    slack_ns = index.run.control_slack_ms * NS_PER_MS
    deadline_ns = interval.since_ns + slack_ns
    return not is_excused(interval.since_ns, deadline_ns, slack_ns, at_ns, index.outages.excuse)
