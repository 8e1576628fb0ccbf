"""Which files of the repository are pages of the site, and how their text becomes a page's.

The files stay where a reader of the repository looks for them: the README at the root, the rest in `docs/`.
So links between them lead to other places on the site than in the repository, and are rewritten here. A link
to a file that is no page (a module, a folder) becomes plain text, and one to nothing is an error.

Rejected: symbolic links in `docs/` (relative links in the README would break), a copy of the README under
`docs/` (two texts drift apart), links to a code host (the site must be whole without one).
"""

import os
import re
from pathlib import Path, PurePosixPath

from schemas.errors import BadInput

HOME = "README.md"
NAVIGATION: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Start", (HOME, "docs/concepts.md", "docs/guarantees.md")),
    ("Receive", ("docs/receivers.md", "docs/events.md")),
    ("Reference", ("docs/api.md", "docs/api-errors.md", "docs/cli.md", "docs/settings.md")),
    ("Operate", ("docs/operations.md", "docs/benchmarks.md")),
    ("Develop", ("ARCHITECTURE.md", "CHANGELOG.md")),
)
DECISIONS = "docs/adr"

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*?$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[(?P<text>[^\]\[]*)\]\((?P<target>[^)\s]+)\)")
_TOUR_MARK = re.compile(r"<!-- tour: terminal (\d+)[^\n]*? -->\n+```(\w+)\n")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


class BrokenLink(BadInput):
    """A page links to a file that is not there."""


def sections(root: Path) -> dict[str, list[str]]:
    """Returns the navigation: section -> files of the repository that are there.

    Pages of `docs/` that no section names stand in "More", so that a new one is never left out.
    """
    found = {title: [name for name in names if (root / name).is_file()] for title, names in NAVIGATION}
    named = {name for names in found.values() for name in names}
    more = [f"docs/{path.name}" for path in sorted((root / "docs").glob("*.md"))]
    found["More"] = [name for name in more if name not in named]
    found["Decisions"] = [f"{DECISIONS}/{path.name}" for path in sorted((root / DECISIONS).glob("*.md"))]
    return {title: names for title, names in found.items() if names}


def place_of(name: str) -> str:
    """Returns where a file of the repository stands among the pages of the site."""
    if name == HOME:
        return "index.md"
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return name.lower()


def title_of(text: str) -> str:
    """Returns the heading of a page, as plain text."""
    heading = _TITLE.search(text)
    return heading[1].replace("`", "") if heading else "Untitled"


def page_of(name: str, root: Path, pages: frozenset[str]) -> str:
    """Returns the text of a file of the repository as a page of the site.

    Args:
        name: of the file, from `root`.
        pages: names of all files that are pages.

    Raises:
        BrokenLink: a link leads nowhere.
    """
    text = (root / name).read_text(encoding="utf-8")
    text = _TOUR_MARK.sub(r'```\2 title="Terminal \1"' + "\n", text)
    done, last = [], 0
    for fence in _FENCE.finditer(text):
        done += [_relinked(text[last : fence.start()], name, root, pages), fence[0]]
        last = fence.end()
    return "".join([*done, _relinked(text[last:], name, root, pages)])


def _relinked(prose: str, name: str, root: Path, pages: frozenset[str]) -> str:
    def relink(link: re.Match[str]) -> str:
        target, _, anchor = link["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        path = PurePosixPath(os.path.normpath(PurePosixPath(name).parent / target)).as_posix()
        if path in pages:
            to = os.path.relpath(place_of(path), PurePosixPath(place_of(name)).parent)
            return f"[{link['text']}]({to}{'#' if anchor else ''}{anchor})"
        if not (root / path).exists():
            raise BrokenLink(f"{name} links to {target}, and {path} is not there")
        return link["text"]

    return _LINK.sub(relink, prose)
