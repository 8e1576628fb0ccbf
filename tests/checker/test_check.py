"""Verdicts: what is incomplete is unknown, what is declared absent is not checked, order does not matter."""

from collections.abc import Iterator
from random import Random

import pytest
from msgspec.structs import replace

from deploy.checker import history as h
from deploy.checker.check import HOST_CLOCK_SKEW_MS_MAX, check
from deploy.checker.report import SLICE_RECORDS_MAX, Report, Verdict, text
from deploy.checker.rules.table import RULES
from deploy.checker.violation import Violation, ViolationClass
from tests.checker.planting import Parts
from tests.checker.reference_model import close, make_history

SEEDS = range(40)


def _declining(records: list[h.Record], *sources: h.Source) -> list[h.Record]:
    """A run that says beforehand that it does without some sources."""
    kept: list[h.Record] = []
    for record in records:
        is_end = isinstance(record, h.End) and record.source in sources
        if isinstance(record, h.Run):
            kept.append(replace(record, declined=sources))
        elif not is_end and h.SOURCE_OF.get(type(record)) not in sources:
            kept.append(record)
    return kept


@pytest.mark.parametrize("source", list(h.Source))
def test_a_source_without_its_end_is_unknown(source: h.Source) -> None:
    for seed in SEEDS:
        records = [r for r in make_history(seed) if not (isinstance(r, h.End) and r.source is source)]
        report = check(records)

        assert report.verdict is Verdict.UNKNOWN, text(report)
        assert any(source in reason for reason in report.unknown)


@pytest.mark.parametrize("source", list(h.Source))
def test_a_source_that_lost_a_line_in_the_middle_is_unknown(source: h.Source) -> None:
    found = 0
    for seed in SEEDS:
        records = make_history(seed)
        mine = [r for r in records if h.SOURCE_OF.get(type(r)) is source]
        if not mine:
            continue
        found += 1
        dropped = Random(seed).choice(mine)
        report = check([record for record in records if record is not dropped])

        assert report.verdict is Verdict.UNKNOWN, text(report)
        assert any("says it wrote" in reason for reason in report.unknown)
    assert found >= 20


@pytest.mark.parametrize("source", list(h.Source))
def test_a_source_with_two_ends_is_unknown(source: h.Source) -> None:
    records = make_history(3)
    end = next(r for r in records if isinstance(r, h.End) and r.source is source)

    assert check([*records, end]).verdict is Verdict.UNKNOWN


def test_a_history_without_its_run_or_with_two_is_unknown() -> None:
    records = make_history(3)
    run = next(r for r in records if isinstance(r, h.Run))

    assert check([r for r in records if r is not run]).verdict is Verdict.UNKNOWN
    assert check([*records, run]).verdict is Verdict.UNKNOWN
    assert check([]).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("source", list(h.Source))
def test_what_is_declared_absent_is_said_not_to_be_checked(source: h.Source) -> None:
    is_shown = False
    for seed in SEEDS:
        report = check(_declining(make_history(seed), source))

        assert report.verdict is Verdict.OK, text(report)
        needing = [rule for rule in RULES if source in rule.needs]
        assert len(report.not_checked) >= len(needing)
        is_shown |= "not checked" in text(report)
    assert is_shown


def test_records_of_a_source_that_is_declared_absent_are_a_contradiction() -> None:
    records = make_history(3)
    run = next(r for r in records if isinstance(r, h.Run))
    others: list[h.Record] = [r for r in records if r is not run]

    assert check([replace(run, declined=(h.Source.STORE,)), *others]).verdict is Verdict.UNKNOWN


def test_a_violation_stands_when_another_source_is_incomplete() -> None:
    records = [r for r in make_history(3) if not (isinstance(r, h.End) and r.source is h.Source.WITNESS)]
    row = next(r for r in records if isinstance(r, h.LogRow))
    others: list[h.Record] = [r for r in records if r is not row]
    ended = [
        replace(r, record_count=r.record_count - 1)
        if isinstance(r, h.End) and r.source is h.Source.DELIVERY_LOG
        else r
        for r in others
    ]
    report = check(ended)

    assert report.verdict is Verdict.VIOLATED
    assert report.counts == {ViolationClass.LOG_MISSING: 1}
    assert report.unknown


def test_the_order_of_the_records_does_not_matter() -> None:
    for seed in SEEDS:
        records = make_history(seed)
        shuffled = list(records)
        Random(seed).shuffle(shuffled)

        assert check(shuffled).outages == check(records).outages
        assert check(shuffled).verdict is Verdict.OK


def test_a_step_of_the_hosts_own_clock_is_unknown() -> None:
    parts = Parts(make_history(3), Random(3))
    arrival = parts.of[h.Arrival][-1]
    parts.put(arrival, wall_at_ms=arrival.wall_at_ms + HOST_CLOCK_SKEW_MS_MAX + 10)

    assert check(parts.records()).verdict is Verdict.UNKNOWN


def _spoiled(seed: int) -> Report:
    parts = Parts(make_history(seed), Random(seed))
    for arrival in list(parts.of[h.Arrival]):
        parts.put(arrival, verdict="bad_signature")
    return check(parts.records(), slices_max=2)


def test_all_violations_are_counted_and_some_are_shown() -> None:
    report = _spoiled(3)

    assert report.counts[ViolationClass.BAD_SIGNATURE] == report.sizes["arrivals"] > 2
    assert len(report.violations) == 2


def test_the_text_names_the_class_the_seed_the_slice_and_the_command() -> None:
    report = _spoiled(3)
    shown = text(report)

    assert shown.startswith("violated: scenario model, seed 3")
    assert "bad-signature: " in shown
    assert report.repeat_command in shown
    assert shown.count('{"type":"arrival"') == 2


def test_a_slice_is_short_and_in_order_of_time() -> None:
    for violation in _many_violations():
        arrivals = [r.received_at_ns for r in violation.slice if isinstance(r, h.Arrival)]

        assert 1 <= len(violation.slice) <= SLICE_RECORDS_MAX
        assert arrivals == sorted(arrivals)


def _many_violations() -> Iterator[Violation]:
    for seed in SEEDS:
        parts = Parts(make_history(seed), Random(seed))
        parts.of[h.LogRow].clear()
        for arrival in list(parts.of[h.Arrival]):
            parts.repeat(arrival, parts.ended_at_ns)
        yield from check(parts.records()).violations


def test_an_empty_run_is_ok_and_says_that_it_looked_at_nothing() -> None:
    run = next(r for r in make_history(3) if isinstance(r, h.Run))
    report = check(close([run], run.started_at_ns))

    assert report.verdict is Verdict.OK
    assert sum(report.sizes.values()) == 1 + len(h.Source)
