"""The report: a verdict, and what a person needs to believe it and to see it again."""

from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from deploy.checker.history import (
    Arrival,
    Control,
    EndpointKnown,
    Fault,
    LogRow,
    Publish,
    Record,
    TransitionRecord,
)
from deploy.checker.host_time import HostTime
from deploy.checker.lines import encode_line
from deploy.checker.violation import Violation, ViolationClass

SLICE_RECORDS_MAX = 16
_LAST = 1 << 63


class Verdict(StrEnum):
    """What the history shows. `unknown` fails a build as `violated` does."""

    OK = "ok"
    VIOLATED = "violated"
    UNKNOWN = "unknown"


class OutageFigures(Struct, frozen=True):
    """One outage, for the bounds of a scenario.

    Attributes:
        in_flight: as the witness counted at its first fault.
        repeats: cut requests whose delivery was sent again.
        repeats_max: how many there may be.
    """

    what: str
    began_at_ns: int
    in_flight: int
    repeats: int
    repeats_max: int


class Report(Struct, frozen=True):
    """What the checker says of a run.

    Attributes:
        counts: violations by class, all of them.
        violations: at most some per class, in the order of the rules.
        unknown: why nothing can be concluded, empty for a whole history.
        not_checked: what this run does without, by its own declaration.
        sizes: how many records of each kind were looked at: a check of nothing proves nothing.
    """

    verdict: Verdict
    seed: int
    scenario: str
    repeat_command: str
    counts: dict[ViolationClass, int]
    violations: tuple[Violation, ...]
    unknown: tuple[str, ...]
    not_checked: tuple[str, ...]
    sizes: dict[str, int]
    outages: tuple[OutageFigures, ...]


def text(report: Report) -> str:
    """Returns the report for people: the class, what was expected, the slice in order of time."""
    return "\n".join(_text_lines(report)) + "\n"


def moment_ns(record: Record, host_time: HostTime) -> int:
    """Returns where a record stands in a slice; those without any time stand last."""
    match record:
        case Arrival():
            return record.received_at_ns
        case Publish() | Control():
            return record.invoked_at_ns
        case Fault():
            return record.began_at_ns
        case EndpointKnown():
            return record.created_at_ns
        case TransitionRecord():
            at_ms = record.attempt.finished_at_ms if record.attempt is not None else record.at_ms
            return min(host_time.moments_ns(at_ms), default=_LAST)
        case LogRow():
            return min(host_time.moments_ns(record.started_at_ms), default=_LAST)
        case _:
            return _LAST


def _text_lines(report: Report) -> Iterator[str]:
    yield f"{report.verdict}: scenario {report.scenario}, seed {report.seed}"
    yield "  looked at " + ", ".join(f"{count} {name}" for name, count in report.sizes.items() if count)
    for outage in report.outages:
        yield (
            f"  {outage.what}: {outage.in_flight} in flight, {outage.repeats} sent again"
            f" (at most {outage.repeats_max})"
        )
    for reason in report.unknown:
        yield f"  unknown: {reason}"
    for reason in report.not_checked:
        yield f"  not checked: {reason}"
    for kind, count in report.counts.items():
        shown = [violation for violation in report.violations if violation.kind is kind]
        yield f"{kind}: {count}" + (f", the first {len(shown)}" if count > len(shown) else "")
        for violation in shown:
            yield f"  {violation.subject}: {violation.detail}"
            for record in violation.slice:
                yield "    " + encode_line(record).decode().rstrip()
    if report.counts or report.unknown:
        yield f"repeat: {report.repeat_command}"
