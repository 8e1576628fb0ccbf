"""docs/guarantees.md tells the truth, as far as a test can see: settings, defaults, the tests it rests on."""

import json
import re

from deploy.checks import ROOT
from deploy.process.load_settings import known_names
from schemas.settings import Settings

PAGE = (ROOT / "docs" / "guarantees.md").read_text()
MATRIX = {1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 22, 23, 33}
"""The faults of the matrix that the embedded mode has to withstand."""


def _rows(heading: str) -> list[list[str]]:
    """Returns the cells of the table under a heading, without its head."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _default(name: str) -> object:
    value: object = Settings()
    for part in name.split("."):
        value = getattr(value, part)
    return value


def test_every_setting_on_the_page_exists_and_has_the_default_that_it_says() -> None:
    rows = {name.strip("`"): default.strip("`") for name, default, *_ in _rows("Settings for durability")}

    assert len(rows) > 8
    assert rows == {name: json.dumps(_default(name)) for name in rows}


def test_every_setting_that_is_mentioned_exists() -> None:
    sections = "|".join({name.partition(".")[0] for name in known_names() if "." in name})
    mentioned = set(re.findall(rf"`((?:{sections})\.\w+)`", PAGE)) - {"log.id"}

    assert mentioned
    assert mentioned - set(known_names()) == set()


def test_every_setting_says_what_each_fault_costs_it() -> None:
    assert {len(row) for row in _rows("Settings for durability")} == {6}
    assert all(all(row) for row in _rows("Settings for durability"))


def test_every_file_that_the_page_rests_on_exists() -> None:
    files = set(re.findall(r"`((?:tests|deploy|docs)/[\w/]+\.\w+)`", PAGE))
    links = {f"docs/{link}" for link in re.findall(r"\]\(([\w/-]+\.md)\)", PAGE)}

    assert len(files) > 12
    assert {file for file in files | links if not (ROOT / file).is_file()} == set()


def test_every_fault_has_a_proof() -> None:
    rows = _rows("Faults, and what proves each promise")

    assert all("`tests/" in row[2] for row in rows)
    assert {int(number) for row in rows for number in re.findall(r"\bF(\d+)\b", row[0])} == MATRIX
