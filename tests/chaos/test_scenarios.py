"""The scenarios that CI runs, against real processes; `./hooktide chaos` runs the same and longer ones."""

import sys
from pathlib import Path

import pytest

from deploy.chaos.figures import RATE_MIN, text_of
from deploy.chaos.injectors import KillAtPoint
from deploy.chaos.points import Point
from deploy.chaos.run import PartResult, describe, run_part
from deploy.chaos.scenarios import SCENARIOS
from deploy.checker.history import FaultKind
from deploy.checker.report import Verdict

SEED = 20_261_123
pytestmark = pytest.mark.alone


def _assert_ok(result: PartResult) -> None:
    assert result.verdict is Verdict.OK, describe(result)


def _say(result: PartResult) -> None:
    sys.stdout.write(f"\n{text_of(result.figures)}\n")


def test_every_second_kill_is_at_a_point_and_every_point_has_its_turn() -> None:
    injectors = SCENARIOS["kills"].injectors
    at_points = [one.point for one in injectors if isinstance(one, KillAtPoint)]

    assert at_points == list(Point)
    assert 2 * len(at_points) == len(injectors)


@pytest.mark.timeout(480)
def test_twenty_kills_lose_nothing_and_repeat_what_was_in_flight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = SCENARIOS["kills"]
    result = run_part(scenario, SEED, 20, tmp_path)

    with capsys.disabled():
        _say(result)
    _assert_ok(result)
    figures = result.figures
    assert len(figures.kills) == 20
    assert sum(1 for kill in figures.kills if kill.point) == 10
    assert figures.rate_per_s >= RATE_MIN
    assert all(kill.in_flight >= 50 for kill in figures.kills)
    assert all(kill.repeats <= kill.held for kill in figures.kills)
    assert figures.repeats_mean <= figures.repeats_mean_max


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "rounds"), [("stops", 1), ("slow-stops", 1)])
def test_a_stop_under_load_sends_nothing_again(name: str, rounds: int, tmp_path: Path) -> None:
    result = run_part(SCENARIOS[name], SEED, rounds, tmp_path)

    _assert_ok(result)
    assert result.figures.rounds == rounds
    assert result.figures.arrivals == result.figures.deliveries
    assert all(outage.in_flight > 50 for outage in result.report.outages)


@pytest.mark.timeout(120)
def test_a_paused_process_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    result = run_part(SCENARIOS["pauses"], SEED, 1, tmp_path)

    _assert_ok(result)
    assert [outage.what for outage in result.report.outages] == [FaultKind.PAUSE.value]


@pytest.mark.timeout(180)
def test_kills_stops_and_pauses_with_receivers_that_fail(tmp_path: Path) -> None:
    result = run_part(SCENARIOS["mixed"], SEED, 6, tmp_path)

    _assert_ok(result)
    assert result.report.sizes["dead_letters"] > 100, "the endpoint that always fails"
    assert len(result.figures.kills) == 4
