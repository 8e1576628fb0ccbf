"""A chaos run from its seed to its verdict; a long one is cut into parts, each over a fresh directory.

The parts bound the disk (a part that is `ok` is deleted before the next begins), the checker's memory, and
how much of a history a person has to look at. The seed of a part is the run's plus its number, so that a part
that fails is repeated alone.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Final

from msgspec import Struct

from deploy.chaos.conduct import Conduct
from deploy.chaos.evidence import gather
from deploy.chaos.figures import Figures, figures_of, text_of
from deploy.chaos.scenarios import Scenario
from deploy.checker.check import check
from deploy.checker.report import Report, Verdict, text

VICTIM: Final = "deploy.chaos.victim"


class ChaosCode(IntEnum):
    """The exit codes of `./hooktide chaos`; everything but 0 fails a build."""

    OK = 0
    VIOLATED = 1
    UNKNOWN = 4


CODES: Final = {
    Verdict.OK: ChaosCode.OK,
    Verdict.VIOLATED: ChaosCode.VIOLATED,
    Verdict.UNKNOWN: ChaosCode.UNKNOWN,
}


class PartResult(Struct, frozen=True):
    """What came of one part.

    Attributes:
        verdict: the worst of the checker's, the problems' and the figures'.
        problems: what the harness saw itself: a start refused, an exit code, a broken bound.
        doubts: why the run says too little.
        kept_in: where everything lies, when it was kept.
    """

    verdict: Verdict
    seed: int
    report: Report
    figures: Figures
    problems: tuple[str, ...]
    doubts: tuple[str, ...]
    kept_in: str


def run_part(
    scenario: Scenario,
    seed: int,
    rounds: int,
    directory: Path,
    *,
    until_s: float = float("inf"),
    victim_module: str = VICTIM,
) -> PartResult:
    """Runs some rounds over one directory, and checks them.

    Args:
        directory: empty.
        until_s: `time.monotonic`: no round begins after it.
    """
    command = f"./hooktide chaos --scenario {scenario.name} --seed {seed} --kills {rounds}"
    conduct = Conduct(scenario, seed, directory, victim_module)
    conduct.perform(rounds, until_s)
    history = gather(conduct, command, seed)
    report = check(history)
    figures = figures_of(history, conduct.windows, report.outages)
    doubts = list(report.unknown)
    if scenario.is_figure_bound:
        conduct.problems += figures.excesses()
        doubts += figures.shortfalls(scenario.in_flight_min)
    verdict = report.verdict
    if conduct.problems:
        verdict = Verdict.VIOLATED
    elif doubts and verdict is Verdict.OK:
        verdict = Verdict.UNKNOWN
    return PartResult(verdict, seed, report, figures, tuple(conduct.problems), tuple(doubts), str(directory))


def run_chaos(
    scenario: Scenario,
    seed: int,
    *,
    rounds: int | None = None,
    duration_s: float | None = None,
    keep: Path | None = None,
    on_part: Callable[[PartResult], None] = lambda _: None,
) -> Verdict:
    """Runs a scenario in parts until its rounds or its time are over; returns the worst verdict.

    Args:
        rounds: None: the scenario's, or without end when there is a duration.
        duration_s: no round begins after it.
        keep: an empty directory where everything stays; else only what was not `ok` is kept.
        on_part: told of each part when it is over.
    """
    until_s = float("inf") if duration_s is None else time.monotonic() + duration_s
    left = rounds if rounds is not None else scenario.rounds if duration_s is None else 1 << 30
    worst, part = Verdict.OK, 0
    while left > 0 and time.monotonic() < until_s:
        count = min(left, scenario.rounds_per_directory)
        directory = Path(tempfile.mkdtemp(prefix="chaos-")) if keep is None else keep / f"part-{part}"
        directory.mkdir(parents=True, exist_ok=True)
        result = run_part(scenario, seed + part, count, directory, until_s=until_s)
        worst = max(worst, result.verdict, key=_weight)
        if keep is None and result.verdict is Verdict.OK:
            shutil.rmtree(directory)
        on_part(result)
        left -= count
        part += 1
    return worst


def describe(result: PartResult) -> str:
    """Returns a part's result for people."""
    lines = [text(result.report).rstrip(), text_of(result.figures)]
    lines += [f"problem: {problem}" for problem in result.problems]
    lines += [f"doubt: {doubt}" for doubt in result.doubts]
    if result.verdict is not Verdict.OK:
        lines.append(f"kept in {result.kept_in}")
    lines.append(f"verdict: {result.verdict}")
    return "\n".join(lines) + "\n"


def _weight(verdict: Verdict) -> int:
    return (Verdict.OK, Verdict.UNKNOWN, Verdict.VIOLATED).index(verdict)
