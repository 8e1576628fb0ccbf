"""The documentation: links lead somewhere, commands exist, and the site is whole without a network."""

import re
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import typer

from deploy.checks import ROOT
from deploy.cli.__main__ import app
from deploy.docs.pages import BrokenLink, page_of, place_of, sections, title_of
from deploy.docs.site import BuildFailed, build_site
from tests.conftest import RequireReal

PAGES = [name for names in sections(ROOT).values() for name in names]
WRITTEN_BY_HAND = [name for name in PAGES if name not in {"docs/cli.md", "CHANGELOG.md"}]
COMMAND = re.compile(r"\./hooktide ((?:[a-z][a-z-]*\b ?|--[a-z-]+\b[ =]?(?:[^-`\s|)][^`\s|)]*)? ?)+)")
LOADED = re.compile(r"<(?:link|script|img|iframe|source|video|audio|object|embed)\b[^>]*>", re.IGNORECASE)
FROM_ELSEWHERE = re.compile(r"""(?:src|href|srcset|data)\s*=\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)


def commands() -> dict[str, set[str]]:
    """Returns every command there is, as words with blanks between them, with its flags."""
    found: dict[str, set[str]] = {}

    def walk(command: click.Command, words: list[str]) -> None:
        found[" ".join(words)] = {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        } | {"--help"}
        for name, below in getattr(command, "commands", {}).items():
            walk(below, [*words, name])

    walk(typer.main.get_command(app), [])  # type: ignore[arg-type]
    return found


def written_commands(text: str) -> list[tuple[list[str], list[str]]]:
    """Returns the command lines of a page: their leading words, and their flags."""
    lines = [match[1].split() for match in COMMAND.finditer(text)]
    parted = []
    for line in lines:
        first_flag = next((n for n, word in enumerate(line) if word.startswith("-")), len(line))
        parted.append((line[:first_flag], [word.split("=")[0] for word in line if word.startswith("--")]))
    return parted


def unknown_commands(text: str) -> list[str]:
    """Returns the command lines of a page that there are not."""
    known = commands()
    unknown = []
    for words, flags in written_commands(text):
        command = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), "")
        if not command or [flag for flag in flags if flag not in known[command]]:
            unknown.append(" ".join([*words, *flags]))
    return unknown


@pytest.mark.parametrize("name", WRITTEN_BY_HAND)
def test_every_command_that_a_page_names_exists(name: str) -> None:
    assert unknown_commands((ROOT / name).read_text()) == []


def test_a_command_or_a_flag_that_is_not_there_is_found() -> None:
    page = "`./hooktide up --data d --allow-privat`, `./hooktide listne`, `./hooktide key show`"

    assert unknown_commands(page) == ["up --data --allow-privat", "listne"]


def test_every_page_of_the_repository_is_on_the_site() -> None:
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}

    assert there <= set(PAGES)
    assert len({place_of(name) for name in PAGES}) == len(PAGES)
    assert all(title_of((ROOT / name).read_text()) != "Untitled" for name in PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_every_link_between_files_leads_to_one(name: str) -> None:
    page_of(name, ROOT, frozenset(PAGES))


def test_a_link_to_nothing_is_refused_and_one_to_no_page_becomes_text(tmp_path: Path) -> None:
    (tmp_path / "docs" / "adr").mkdir(parents=True)
    (tmp_path / "README.md").write_text(
        "# A\n[b](docs/b.md#x) [all](docs/adr/) [out](https://example.com/)\n"
    )
    (tmp_path / "docs" / "b.md").write_text("# B\n\n```md\n[a](nowhere.md)\n```\n[a](../README.md)\n")
    (tmp_path / "docs" / "c.md").write_text("# C\n[d](d.md)\n")
    pages = frozenset({"README.md", "docs/b.md"})

    assert page_of("README.md", tmp_path, pages) == "# A\n[b](b.md#x) all [out](https://example.com/)\n"
    assert page_of("docs/b.md", tmp_path, pages).endswith("[a](nowhere.md)\n```\n[a](index.md)\n")
    with pytest.raises(BrokenLink, match=r"docs/c\.md links to d\.md, and docs/d\.md is not there"):
        page_of("docs/c.md", tmp_path, pages)


@pytest.mark.timeout(120)
def test_the_site_is_built_and_loads_nothing_from_elsewhere(
    tmp_path: Path, require_real: RequireReal
) -> None:
    require_real("zensical", find_spec("zensical") is not None, "the group `dev` of pyproject.toml")

    count = build_site(ROOT, tmp_path / "site")

    built = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert built - {"404.html"} == {place_of(name).removesuffix(".md") + ".html" for name in PAGES}
    assert count == len(PAGES)
    for name in built:
        html = (tmp_path / "site" / name).read_text()
        tags = LOADED.findall(html)
        assert tags, name
        assert [tag for tag in tags if FROM_ELSEWHERE.search(tag) and 'rel="canonical"' not in tag] == [], (
            name
        )
        assert not re.search(r'class="[^"]*\b(?:mermaid|glightbox|pyodide)\b', html), (
            "its script is loaded from afar"
        )
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"""(?:url\(|@import)\s*["']?\s*(?:https?:)?//""", style.read_text()), style


@pytest.mark.timeout(120)
def test_a_broken_anchor_or_a_foreign_directory_stops_the_build(
    tmp_path: Path, require_real: RequireReal
) -> None:
    require_real("zensical", find_spec("zensical") is not None, "the group `dev` of pyproject.toml")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# A\n\n[b](docs/b.md#nowhere)\n")
    (tmp_path / "docs" / "b.md").write_text("# B\n")

    with pytest.raises(BuildFailed, match="anchor does not exist"):
        build_site(tmp_path, tmp_path / "site")
    with pytest.raises(BuildFailed, match="holds something else than a site"):
        build_site(tmp_path, tmp_path / "docs")
    assert (tmp_path / "docs" / "b.md").exists()
