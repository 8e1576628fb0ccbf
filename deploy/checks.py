"""The checks behind `./hooktide test`: form, lint, types, import contracts, tests; the same here and in CI.

Every step runs even when an earlier one failed, so that one round shows everything there is to mend. The
cheap steps keep their output to themselves unless they fail; pytest speaks for itself. Each step is a process
of its own, because each tool expects to own its process.

Rejected: stopping at the first failure (a CI round per mistake), a task runner (one more thing to install),
and pre-commit hooks as the only place (they can be skipped; this cannot).
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIRE_REAL = "HOOKTIDE_REQUIRE_REAL"
"""Set to 1, it makes `tests/conftest.py` fail a test whose real component is missing, not skip it."""

_LINT_IMPORTS = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_logo=True))"


@dataclass(frozen=True)
class Step:
    """One check: its name in the report, the interpreter's arguments, and whether it prints as it goes."""

    name: str
    arguments: tuple[str, ...]
    is_loud: bool = False


_TESTS = (
    # Two at a time: most of the real-process tests wait more than they work.
    Step("tests", ("-m", "pytest", "-n", "2", "-m", "not benchmark and not alone"), is_loud=True),
    Step("alone", ("-m", "pytest", "-m", "alone"), is_loud=True),
)


def run_checks(ci: bool, pytest_args: Sequence[str]) -> int:  # noqa: FBT001 (a fact about where we run, not a mode)
    """Runs every check over the whole tree and prints one line for each.

    Args:
        ci: Whether a missing real component fails its tests.
        pytest_args: Handed on to pytest; without any, everything runs, two tests at a time where that can be.

    Returns:
        The exit code: 0 when every check passed, 1 otherwise.
    """
    environment = {**os.environ, REQUIRE_REAL: "1" if ci else "0"}
    steps = (
        Step("format", ("-m", "ruff", "format", "--check", "--quiet", "--diff", ".")),
        Step("lint", ("-m", "ruff", "check", ".")),
        Step("types", ("-m", "mypy")),
        Step("imports", ("-c", _LINT_IMPORTS)),
        *(_TESTS if not pytest_args else [Step("tests", ("-m", "pytest", *pytest_args), is_loud=True)]),
    )
    failed = [step.name for step in steps if not _passes(step, environment)]
    if failed:
        _say(f"failed: {', '.join(failed)}")
        return 1
    _say("all checks passed")
    return 0


def _passes(step: Step, environment: Mapping[str, str]) -> bool:
    started = time.monotonic()
    command = [sys.executable, *step.arguments]
    if step.is_loud:
        code, output = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode, ""
    else:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        code, output = done.returncode, done.stdout
    if code != 0 and output:
        _say(output.rstrip())
    _say(f"{step.name:<8} {'ok' if code == 0 else 'FAILED':<7} {time.monotonic() - started:6.1f} s")
    return code == 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
