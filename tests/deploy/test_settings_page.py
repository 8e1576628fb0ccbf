"""docs/settings.md tells the truth: every setting with its default, every exit code, every flag."""

import json
import re

import pytest
from typer.testing import CliRunner

from deploy.checks import ROOT
from deploy.cli.__main__ import app
from deploy.process.exit_codes import ExitCode
from deploy.process.load_settings import known_names
from schemas.settings import Settings

PAGE = (ROOT / "docs" / "settings.md").read_text()


def test_the_page_names_every_setting_with_its_default_and_a_reason() -> None:
    table = PAGE.partition("## All settings")[2].partition("## Flags")[0]
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `([^`]*)` \| \S.*\|$", table, re.MULTILINE))

    assert rows == {name: json.dumps(_default(name)) for name in known_names()}


def _default(name: str) -> object:
    value: object = Settings()
    for part in name.split("."):
        value = getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


def test_the_page_names_every_exit_code() -> None:
    codes = re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE)

    assert [int(code) for code in codes] == sorted(ExitCode)


@pytest.mark.parametrize("path", ["up", "listen", "key show"])
def test_the_page_names_every_flag(path: str) -> None:
    shown = CliRunner().invoke(app, [*path.split(), "--help"], env={"COLUMNS": "200", "TERM": "dumb"})

    flags = set(re.findall(r"(?<![\w`-])--[a-z][a-z-]+", shown.output)) - {"--help"}

    assert flags, shown.output
    assert {flag for flag in flags if f"`{flag}" not in PAGE} == set()
