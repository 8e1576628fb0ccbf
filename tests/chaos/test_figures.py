"""The figures: first arrivals make the rate, and a weak load is said to be one."""

import pytest

from deploy.chaos.figures import NS_PER_S, Figures, Kill, figures_of
from deploy.checker.history import Arrival, AttemptRecord, Fault, FaultKind, Record, TransitionRecord
from deploy.checker.report import OutageFigures


def _arrival(number: int, at_s: float) -> Arrival:
    at_ns = round(at_s * NS_PER_S)
    return Arrival(at_ns, at_ns + 1, "/0", f"evt_{number}", 1, 1, "", "ok", 200, is_answer_written=True)


def _transition(duration_ms: int) -> TransitionRecord:
    attempt = AttemptRecord(1, 1_000, 1_000 + duration_ms, 200, "", after_crash=False, requests_sent=1)
    return TransitionRecord(0, 0, "dlv", "evt", "ep", 1, 1, "delivered", "delivered", 1, 1, 0, attempt)


def test_the_rate_counts_first_arrivals_while_the_load_was_on() -> None:
    history: list[Record] = [_arrival(number, number / 10) for number in range(40)]
    history += [_arrival(3, 1.05), _arrival(4, 1.15)]  # repeats
    figures = figures_of(history, [(1 * NS_PER_S, 3 * NS_PER_S)], [])

    assert figures.rate_per_s == 10.0
    assert (figures.arrivals, figures.deliveries) == (42, 40)


def test_repeats_are_held_against_rate_and_latency() -> None:
    fault = Fault(
        kind=FaultKind.KILL,
        began_at_ns=2 * NS_PER_S,
        ended_at_ns=2 * NS_PER_S,
        recovered_at_ns=3 * NS_PER_S,
        in_flight=60,
        repeats_max=70,
    )
    history: list[Record] = [_arrival(number, 1 + number / 2_000) for number in range(2_000)]
    history += [_transition(20), _transition(45), _transition(90), fault]
    outage = OutageFigures("kill", fault.began_at_ns, 60, 65, 70)
    figures = figures_of(history, [(NS_PER_S, 2 * NS_PER_S)], [outage])

    assert figures.kills == (Kill("", 60, 70, 65, 1_000),)
    assert figures.repeats_mean_max == pytest.approx(2 * 2_000 * 0.050)
    assert figures.excesses() == []
    assert figures.shortfalls(50) == []


def test_a_weak_load_and_too_many_repeats_are_said() -> None:
    kills = (Kill("", 49, 300, 300, 1), Kill("", 80, 300, 200, 1))
    figures = Figures(2, 1, 1, 999.0, 900.0, 50.0, kills, 250.0, 109.9)

    assert len(figures.shortfalls(50)) == 2
    assert len(figures.excesses()) == 1
