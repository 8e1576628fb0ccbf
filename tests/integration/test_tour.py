"""The README's tour, as a reader takes it: its blocks typed into shells, in a fresh copy with no data."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.checks import ROOT
from tests.integration.fresh_copy import copy_tree, without_settings

TAKE = ROOT / "tests" / "tour" / "take.py"


@pytest.mark.timeout(240)
def test_the_readme_tour_goes_as_the_readme_says(tmp_path: Path) -> None:
    copy = copy_tree(tmp_path / "hooktide")

    done = take(copy / "README.md", copy)

    assert done.returncode == 0, done.stdout
    assert "the tour went as the page says" in done.stdout


@pytest.mark.parametrize(
    ("page", "code", "says"),
    [
        ("<!-- tour: terminal 1 -->\n```sh\necho one; false\n```\n", 1, "failed"),
        (
            "<!-- tour: terminal 1 -->\n```sh\necho one\n```\n\n```text\ntwo\n```\n",
            1,
            "prints something else",
        ),
        (
            '<!-- tour: terminal 1 -->\n```sh\necho {\\"a\\": 1}\n```\n\n```json\n{"a": 2}\n```\n',
            1,
            "something else",
        ),
        ("<!-- tour: terminal 1 stays -->\n```sh\nexit 3\n```\n\n```text\nready\n```\n", 1, "failed"),
        ("<!-- tour: terminal 1 shows -->\n```text\nnever\n```\n", 1, "does not show that within 2 s"),
        (
            "<!-- tour: terminal 1 stays -->\n```sh\nbash -c 'trap \"exit 4\" INT; echo; sleep 60'\n```\n",
            1,
            "failed",
        ),
        ("```sh\necho one\n```\n", 2, "line 1: the block says neither"),
        ("<!-- tour: terminal 1 lingers -->\n```sh\necho one\n```\n", 2, "nobody knows what"),
        ("<!-- tour: terminal 1 -->\n```sh\necho one two\n```\n\n```text\none   ...o\n```\n", 0, "went as"),
    ],
)
def test_a_tour_that_is_not_as_its_page_says_is_lost(tmp_path: Path, page: str, code: int, says: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(page)

    done = take(path, tmp_path, "--patience", "2")

    assert (done.returncode, says in done.stdout) == (code, True), done.stdout


def take(page: Path, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Takes a tour in a network of its own, where there can be one."""
    command = [
        sys.executable,
        str(TAKE),
        str(page),
        "--directory",
        str(directory),
        "--own-network",
        *arguments,
    ]
    return subprocess.run(
        command,
        env=without_settings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
