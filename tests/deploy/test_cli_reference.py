"""The command line as a whole: its page tells the truth, its help is quick, its mistakes are sentences."""

import re
import subprocess
import sys

from deploy.checks import ROOT
from deploy.cli.reference import reference
from deploy.process.exit_codes import ExitCode

PAGE = (ROOT / "docs" / "cli.md").read_text()
HEAVY = ("aiohttp", "asyncio", "chdb", "cryptography", "http.client", "pydantic", "rocksdict", "structlog")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "100", "TERM": "dumb", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_page_is_what_the_commands_say() -> None:
    assert reference() == PAGE, "make it anew: python -m deploy.cli.reference > docs/cli.md"


def test_the_page_names_every_exit_code() -> None:
    assert [int(code) for code in re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE)] == sorted(ExitCode)


def test_the_page_explains_every_option() -> None:
    rows = re.findall(r"^\| `(-.*?)` \| (.*) \|$", PAGE, re.MULTILINE)

    assert len(rows) > 50
    assert [spelled for spelled, explained in rows if len(explained) < 5] == []


def test_help_loads_nothing_heavy() -> None:
    script = "import sys, deploy.cli.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()

    assert "deploy.cli.demo" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_a_mistyped_command_names_the_one_that_was_meant() -> None:
    done = run("endpoint", "list")

    assert done.returncode == ExitCode.USAGE
    assert "'endpoints'" in done.stderr


def test_completion_is_offered_for_the_usual_shells() -> None:
    done = run(_HOOKTIDE_COMPLETE="complete_bash", COMP_WORDS="hooktide endp", COMP_CWORD="1")

    assert done.stdout.split() == ["endpoints"]
