"""A shard has one owner, a final state is final, and no good record is refused."""

from collections.abc import Iterator

from deploy.checker.flow import FINAL, Fate
from deploy.checker.history import DeadLetterRecord, Record, TransitionRecord
from deploy.checker.index import Index
from deploy.checker.violation import Violation, ViolationClass


def state_after_final(index: Index) -> Iterator[Violation]:
    """Yields deliveries that went on after their end in the topic."""
    for flow in index.flows.values():
        ended: dict[str, TransitionRecord] = {}
        for transition in flow.transitions:
            final = ended.get(transition.delivery_id)
            if final is not None:
                detail = f"{transition.state} after {final.state}: only a replay may follow"
                yield Violation(ViolationClass.STATE_AFTER_FINAL, flow.subject, detail, (final, transition))
            elif transition.state in FINAL:
                ended[transition.delivery_id] = transition


def sent_after_final(index: Index) -> Iterator[Violation]:
    """Yields what was sent after its delivery had ended without success."""
    for flow in index.flows.values():
        for stray in flow.strays:
            if stray.fate is Fate.AFTER_FINAL:
                ended = [transition for transition in flow.transitions if transition.state in FINAL]
                detail = "sent after its delivery had ended without success"
                records: tuple[Record, ...] = (*ended, stray.arrival)
                yield Violation(ViolationClass.STATE_AFTER_FINAL, flow.subject, detail, records)


def two_owners(index: Index) -> Iterator[Violation]:
    """Yields records whose stamp does not rise within their topic and partition."""
    yield from _falling(index.history.transitions, "transitions")
    yield from _falling(index.history.dead_letters, "dead_letters")


def unexpected_rejected(index: Index) -> Iterator[Violation]:
    """Yields refused records beyond those that poison explains."""
    explained = sum(fault.rejected_max for fault in index.history.faults)
    if len(index.history.rejected) > explained:
        detail = f"{len(index.history.rejected)} records were refused, poison explains {explained}"
        shown = tuple(index.history.rejected[:5])
        yield Violation(ViolationClass.UNEXPECTED_REJECTED, "rejected", detail, shown)


def _falling(records: list[TransitionRecord] | list[DeadLetterRecord], topic: str) -> Iterator[Violation]:
    last: TransitionRecord | DeadLetterRecord | None = None
    for record in records:
        if last is not None and last.partition == record.partition:
            before, now = (last.epoch, last.sequence), (record.epoch, record.sequence)
            if now <= before:
                detail = f"the stamp {now} follows {before} in {topic}"
                yield Violation(
                    ViolationClass.TWO_OWNERS, f"{topic}/{record.partition}", detail, (last, record)
                )
        last = record
