"""The delivery log holds every recorded attempt once, and every request belongs to a recorded attempt.

Three parties are compared: the topic `transitions`, the table `attempts`, and the witness. A request that an
outage cut off is nobody's attempt; an attempt without a status may never have reached the witness.
"""

from collections.abc import Iterator

from deploy.checker.flow import Fate
from deploy.checker.history import LogRow, Record, TransitionRecord
from deploy.checker.index import Index
from deploy.checker.violation import Violation, ViolationClass

_Stamp = tuple[int, int, int]


def log_missing(index: Index) -> Iterator[Violation]:
    """Yields recorded attempts that the table lacks."""
    rows = {(row.partition, row.epoch, row.sequence) for row in index.history.log_rows}
    for transition in index.history.transitions:
        stamp = (transition.partition, transition.epoch, transition.sequence)
        if transition.attempt is not None and stamp not in rows:
            detail = f"attempt {transition.attempt.number} is in the topic and not in the delivery log"
            yield Violation(ViolationClass.LOG_MISSING, _subject(transition), detail, (transition,))


def unrecorded_arrivals(index: Index) -> Iterator[Violation]:
    """Yields requests that no attempt tells of, though nothing cut them off."""
    for flow in index.flows.values():
        for stray in flow.strays:
            if stray.fate is Fate.UNRECORDED:
                detail = "sent, and no recorded attempt tells of it; no outage cut it off"
                records: tuple[Record, ...] = (*flow.transitions[-3:], stray.arrival)
                yield Violation(ViolationClass.LOG_MISSING, flow.subject, detail, records)


def log_phantom(index: Index) -> Iterator[Violation]:
    """Yields rows of the table that no recorded attempt stands behind."""
    attempts = _attempts(index)
    for row in index.history.log_rows:
        transition = attempts.get((row.partition, row.epoch, row.sequence))
        if transition is None:
            detail = f"attempt {row.number} is in the delivery log and not in the topic"
            yield Violation(ViolationClass.LOG_PHANTOM, _subject(row), detail, (row,))
        elif _said_by_row(row) != _said_by_transition(transition):
            detail = "the row in the delivery log says something else than the topic"
            yield Violation(ViolationClass.LOG_PHANTOM, _subject(row), detail, (transition, row))


def unseen_attempts(index: Index) -> Iterator[Violation]:
    """Yields recorded attempts with a status that the witness never answered."""
    for flow in index.flows.values():
        if flow.endpoint_id not in index.lives:
            continue
        for pair in flow.pairs:
            if pair.attempt.status is not None and not pair.arrivals:
                detail = (
                    f"attempt {pair.attempt.number} came to {pair.attempt.status}: the witness never saw it"
                )
                records: tuple[Record, ...] = (pair.transition, *flow.arrivals[:3])
                yield Violation(ViolationClass.LOG_PHANTOM, flow.subject, detail, records)


def log_duplicate(index: Index) -> Iterator[Violation]:
    """Yields rows that the table holds twice: the same stamp, or the same attempt under another one."""
    stamps: dict[_Stamp, LogRow] = {}
    attempts: dict[tuple[str, int, int], LogRow] = {}
    for row in index.history.log_rows:
        stamp = (row.partition, row.epoch, row.sequence)
        name = (row.delivery_id, row.number, row.started_at_ms)
        known = stamps.get(stamp) or attempts.get(name)
        if known is not None:
            detail = f"attempt {row.number} is in the delivery log twice"
            yield Violation(ViolationClass.LOG_DUPLICATE, _subject(row), detail, (known, row))
        stamps[stamp] = attempts[name] = row


def _attempts(index: Index) -> dict[_Stamp, TransitionRecord]:
    return {
        (transition.partition, transition.epoch, transition.sequence): transition
        for transition in index.history.transitions
        if transition.attempt is not None
    }


def _said_by_row(row: LogRow) -> tuple[object, ...]:
    return row.delivery_id, row.number, row.started_at_ms, row.status, row.after_crash


def _said_by_transition(transition: TransitionRecord) -> tuple[object, ...]:
    attempt = transition.attempt
    assert attempt is not None, transition
    return transition.delivery_id, attempt.number, attempt.started_at_ms, attempt.status, attempt.after_crash


def _subject(record: LogRow | TransitionRecord) -> str:
    return f"{record.event_id} -> {record.endpoint_id}"
