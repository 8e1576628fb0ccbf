"""A harness that cannot fail proves nothing: systems with planted defects have to be caught, by name."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from deploy.chaos.injectors import KillAtRandom
from deploy.chaos.run import PartResult, run_part
from deploy.chaos.scenarios import Load, Receiver, Scenario
from deploy.checker.report import Verdict
from deploy.checker.violation import ViolationClass
from tests.chaos.planted_victim import DEFECT

SMALL = Scenario(
    name="small",
    about="One kill under a small load.",
    injectors=(KillAtRandom(),),
    rounds=1,
    load=Load(
        tenants=("acme",),
        endpoints_per_tenant=4,
        publishes_per_s=60.0,
        receivers=(Receiver(delay_ms=30),),
    ),
    in_flight_min=1,
    warm_up_s=(1.5, 2.0),
    delays_ms=(1_000, 1_000),
    quiet_s=3.0,
)


def _run(defect: str, directory: Path) -> PartResult:
    scenario = replace(SMALL, environment={DEFECT: defect})
    return run_part(scenario, 7, 1, directory, victim_module="tests.chaos.planted_victim")


@pytest.mark.timeout(120)
def test_without_a_defect_the_small_scenario_is_ok(tmp_path: Path) -> None:
    result = _run("none", tmp_path)

    assert result.verdict is Verdict.OK, (result.report.counts, result.problems, result.doubts)
    assert result.figures.deliveries > 100


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("defect", "kind"),
    [
        ("forgets_outcomes", ViolationClass.DUPLICATE_AFTER_SUCCESS),
        ("acknowledges_early", ViolationClass.LOST),
        ("sends_twice", ViolationClass.DUPLICATE_AFTER_SUCCESS),
        ("loses_rows", ViolationClass.LOG_MISSING),
    ],
)
def test_a_planted_defect_is_caught_by_its_name(defect: str, kind: ViolationClass, tmp_path: Path) -> None:
    result = _run(defect, tmp_path)

    assert result.verdict is Verdict.VIOLATED, (result.report.unknown, result.problems)
    assert kind in result.report.counts, result.report.counts
    assert "--seed 7" in result.report.repeat_command
    shown = [one for one in result.report.violations if one.kind is kind]
    assert shown
    assert all(one.slice for one in shown)
