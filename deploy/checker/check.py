"""Checks a history: a pure function from records to a report, in linear time.

A rule is asked only when every source it needs was written completely: half a witness's file would accuse
everybody of losing events. What a run declares to do without is reported as not checked; what is missing
without being declared makes the verdict `unknown`. A violation that complete sources show stands either way.
"""

from collections import Counter
from collections.abc import Iterable

from deploy.checker.history import Record, Run
from deploy.checker.index import Index
from deploy.checker.report import SLICE_RECORDS_MAX, OutageFigures, Report, Verdict, moment_ns
from deploy.checker.rules.repeats import repeats_by_outage
from deploy.checker.rules.table import RULES, needs
from deploy.checker.sorted_history import SortedHistory, gaps, sort_history
from deploy.checker.violation import Violation, ViolationClass

SLICES_PER_CLASS_MAX = 5
HOST_CLOCK_SKEW_MS_MAX = 1_000
"""The witness's wall clock may leave the monotonic one by so much; beyond, the host's clock was stepped."""


def check(records: Iterable[Record], slices_max: int = SLICES_PER_CLASS_MAX) -> Report:
    """Returns what a history shows.

    Args:
        records: of all sources, in any order.
        slices_max: how many violations of a class are kept with their slices; all are counted.
    """
    history = sort_history(records)
    if len(history.runs) != 1:
        return _without_run(history)
    run = history.runs[0]
    return check_index(run, history, Index(run, history), slices_max)


def check_index(run: Run, history: SortedHistory, index: Index, slices_max: int) -> Report:
    """Returns what an index shows; for callers that keep it."""
    incomplete = dict(gaps(history, frozenset(run.declined)))
    unknown = list(incomplete.values())
    unknown += _clock_doubts(index)
    not_checked: list[str] = []
    counts: Counter[ViolationClass] = Counter()
    kept: list[Violation] = []
    for rule in RULES:
        needed = needs(rule, run)
        declined = sorted(needed & set(run.declined))
        if declined:
            not_checked.append(f"{rule.kind} ({rule.find.__name__}): this run has no {', '.join(declined)}")
        if declined or needed & incomplete.keys():
            continue
        for violation in rule.find(index):
            counts[violation.kind] += 1
            if counts[violation.kind] <= slices_max:
                kept.append(_in_order(violation, index))
    verdict = Verdict.VIOLATED if counts else Verdict.UNKNOWN if unknown else Verdict.OK
    return Report(
        verdict=verdict,
        seed=run.seed,
        scenario=run.scenario,
        repeat_command=run.repeat_command,
        counts=dict(counts),
        violations=tuple(kept),
        unknown=tuple(unknown),
        not_checked=tuple(not_checked),
        sizes=_sizes(history),
        outages=_outage_figures(index),
    )


def _without_run(history: SortedHistory) -> Report:
    unknown = (f"a history has one `run` record, this one has {len(history.runs)}",)
    return Report(Verdict.UNKNOWN, 0, "", "", {}, (), unknown, (), _sizes(history), ())


def _clock_doubts(index: Index) -> list[str]:
    """Returns a doubt when the host's wall clock moved by itself: then wall times say nothing."""
    for arrival in index.history.arrivals:
        off_ms = arrival.wall_at_ms - index.host_time.true_ms(arrival.received_at_ns)
        if abs(off_ms) > HOST_CLOCK_SKEW_MS_MAX:
            return [f"the host's wall clock moved by {off_ms} ms during the run (seen by the witness)"]
    return []


def _in_order(violation: Violation, index: Index) -> Violation:
    records = sorted(violation.slice, key=lambda record: moment_ns(record, index.host_time))
    del records[SLICE_RECORDS_MAX:]
    return Violation(violation.kind, violation.subject, violation.detail, tuple(records))


def _sizes(history: SortedHistory) -> dict[str, int]:
    return {name: len(getattr(history, name)) for name in history.__struct_fields__}


def _outage_figures(index: Index) -> tuple[OutageFigures, ...]:
    repeats = repeats_by_outage(index)
    return tuple(
        OutageFigures(
            " + ".join(f"{fault.kind} {fault.point}".strip() for fault in outage.faults),
            outage.began_at_ns,
            outage.faults[0].in_flight,
            len(repeats.get(place, ())),
            outage.repeats_max,
        )
        for place, outage in enumerate(index.outages.all)
    )
