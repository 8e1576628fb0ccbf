"""Runs stages one after another, each in a process of its own, and prints their figures.

A process each, because chdb opens one directory per process, and because the memory and the garbage of one
stage must not be the next one's cost. Each is pinned to one core and its receiver to another, where there is
one.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from deploy.bench.figure import Figure

TABLE_WIDTH: Final = 118
ROOT: Final = Path(__file__).resolve().parent.parent.parent
Case = tuple[str, int, tuple[int, ...]]
"""Stage, default count, and what is varied."""

CASES: Final[tuple[Case, ...]] = (
    ("engine", 50_000, (1, 0)),
    ("store", 200_000, ()),
    ("sender", 20_000, (64,)),
    ("route", 50_000, (1,)),
    ("route", 50_000, (100,)),
    ("deliver", 50_000, (10, 0)),
    ("deliver", 30_000, (10, 1)),
    ("record", 30_000, ()),
    ("api", 10_000, ()),
    ("whole", 30_000, (10,)),
)
GROWTH: Final[tuple[Case, ...]] = (
    ("engine", 200_000, (1, 0)),
    ("engine", 200_000, (1_000, 0)),
    ("engine", 200_000, (100_000, 0)),
    ("engine", 200_000, (1, 1_000_000)),
    ("engine", 200_000, (1_000, 1_000_000)),
    ("engine", 200_000, (100_000, 1_000_000)),
)


def run_suite(stages: Sequence[str], count: int | None, *, as_json: bool) -> int:
    """Runs the named stages (all but growth unless named); returns the exit code."""
    known = {name for name, _, _ in CASES} | {"growth"}
    unknown = [name for name in stages if name not in known]
    if unknown:
        sys.stderr.write(f"hooktide: no stage {', '.join(unknown)}; there are {', '.join(sorted(known))}\n")
        return 2
    cases = [case for case in CASES if not stages or case[0] in stages]
    if "growth" in stages:
        cases += GROWTH
    figures = []
    for stage, default_count, varied in cases:
        if not as_json:
            sys.stderr.write(f"{stage} {' '.join(map(str, varied))} ...\n")
        figures.append(_in_process(stage, count or default_count, varied))
    if as_json:
        document = [
            {**msgspec.to_builtins(f), "cpu_us": f.cpu_us, "per_second": f.per_second} for f in figures
        ]
        sys.stdout.write(json.dumps({"machine": _machine(), "figures": document}, indent=2) + "\n")
    else:
        _print(figures)
    return 0


def run_case(stage: str, count: int, varied: Sequence[int]) -> Figure:
    """Runs one stage in this process."""
    _pin_to_one_core()
    with tempfile.TemporaryDirectory(prefix="hooktide-bench-") as name:
        return _stage(stage)(Path(name), count, *varied)


def _stage(name: str) -> Callable[..., Figure]:
    from deploy.bench import api, deliver, engine, record, route, sender, store, whole  # noqa: PLC0415 - heavy
    from deploy.process.tune import freeze_heap, tune_allocator  # noqa: PLC0415 - as above

    tune_allocator()
    freeze_heap()
    stages: dict[str, Callable[..., Figure]] = {
        "api": api.run,
        "deliver": deliver.run,
        "engine": engine.run,
        "record": record.run,
        "route": route.run,
        "sender": sender.run,
        "store": store.run,
        "whole": whole.run,
    }
    return stages[name]


def _in_process(stage: str, count: int, varied: Sequence[int]) -> Figure:
    command = [sys.executable, "-m", "deploy.bench.suite", stage, str(count), *map(str, varied)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Figure)


def _pin_to_one_core() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[:1])


def _machine() -> dict[str, object]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown",
    )
    return {"cpu": model, "cores": os.cpu_count(), "python": sys.version.split()[0]}


def _print(figures: Sequence[Figure]) -> None:
    table = Table("stage", "case", "CPU us", "user", "sys", "worker", "per s", "MB", "count")
    for figure in figures:
        table.add_row(
            figure.stage,
            figure.case,
            f"{figure.cpu_us:.1f}",
            f"{figure.user_us:.1f}",
            f"{figure.sys_us:.1f}",
            f"{figure.worker_us:.1f}",
            f"{figure.per_second:,.0f}",
            f"{figure.rss_mb:.0f}",
            f"{figure.count:,}",
        )
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    console.print(table)


def _main(arguments: Sequence[str]) -> None:
    import structlog  # noqa: PLC0415 - only in the process of a stage

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(30),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    stage, count, *varied = arguments
    figure = run_case(stage, int(count), [int(part) for part in varied])
    sys.stdout.write(msgspec.json.encode(figure).decode() + "\n")


if __name__ == "__main__":
    _main(sys.argv[1:])
