"""The blocks of a page that is a tour: what is typed into which terminal, and what has to be seen then.

A page stays ordinary Markdown. A comment in front of a fence, which no renderer shows, says what it is:

    <!-- tour: terminal 1 stays -->    its last command keeps running until the tour ends, then Ctrl-C
    <!-- tour: terminal 3 -->          typed into terminal 3; every command has to succeed
    <!-- tour: terminal 3 again -->    typed again until it shows what stands below: a read after a write
    <!-- tour: terminal 2 shows -->    typed nowhere: terminal 2 prints this by and by
    <!-- tour: not run (why) -->       shown only

A `text` or `json` fence right after a block that is typed is what it prints. Standard library only: this runs
in a clean Debian, too. Rejected: a block without a comment is skipped (then a new one would go untested).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

WILDCARD = "..."
"""Stands for anything: within a line, for lines when it stands alone, for the rest of a JSON string."""

_FENCE = re.compile(
    r"(?:<!-- tour: (?P<mark>[^\n]*?) -->\n+)?^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"terminal (?P<terminal>\d+)(?: (?P<manner>stays|again|shows))?")


class NotATour(Exception):  # noqa: N818 - it reads as the sentence it is
    """The page cannot be read as a tour; the message says where."""


@dataclass
class Block:
    """One thing that happens in one terminal.

    Attributes:
        line: of the page, where the block stands.
        manner: "ends", "stays", "again" or "shows".
        typed: the commands; empty for "shows".
        shown: (language, text) of what has to be seen.
    """

    line: int
    terminal: int
    manner: str
    typed: str
    shown: tuple[str, str] | None = None


def blocks_of(page: str) -> list[Block]:
    """Returns the page's blocks in order.

    Raises:
        NotATour: A fence says nothing of itself, or shows what nothing printed.
    """
    return list(_read(page))


def _read(page: str) -> Iterator[Block]:
    typed: Block | None = None
    for fence in _FENCE.finditer(page):
        line = page.count("\n", 0, fence.start("language")) + 1
        mark, language, text = fence["mark"], fence["language"], fence["text"]
        if mark is None:
            if typed is None or typed.shown is not None or language not in {"text", "json"}:
                raise NotATour(f"line {line}: the block says neither what it is nor what printed it")
            typed.shown = (language, text)
            yield typed
            typed = None
            continue
        if typed is not None:
            yield typed
            typed = None
        if mark.startswith("not run ("):
            continue
        told = _MARK.fullmatch(mark)
        if told is None:
            raise NotATour(f"line {line}: nobody knows what {mark!r} means")
        manner = told["manner"] or "ends"
        if manner == "shows":
            yield Block(line, int(told["terminal"]), manner, "", (language, text))
        else:
            typed = Block(line, int(told["terminal"]), manner, text)
    if typed is not None:
        yield typed


def is_shown(shown: tuple[str, str], printed: str) -> bool:
    """Returns whether what was printed contains what the page shows."""
    language, text = shown
    if language != "json":
        return re.search(_pattern(text), printed) is not None
    try:
        return _holds(json.loads(text), json.loads(printed))
    except ValueError:
        return False


def _pattern(text: str) -> str:
    """Returns a pattern for the text: any white space equals any other, and the wildcard is anything."""
    parts = (r"\s+".join(re.escape(word) for word in part.split()) for part in text.split(WILDCARD))
    return r"[\s\S]*?".join(parts)


def _holds(wanted: object, found: object) -> bool:
    """Returns whether `found` has everything of `wanted`; more members are no difference, more items are."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            name in found and _holds(value, found[name]) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_holds(one, other) for one, other in zip(wanted, found, strict=True))
        )
    if isinstance(wanted, str) and wanted.endswith(WILDCARD):
        return isinstance(found, str) and found.startswith(wanted.removesuffix(WILDCARD))
    return type(wanted) is type(found) and wanted == found
