"""What commands print: tables and fields for a person, JSON for a program.

A terminal gets colours and the width it has; a pipe gets plain columns that are never cut, so that `grep`
and `awk` see whole ids. NO_COLOR is kept by rich. Everything that comes from outside is foreign text:
shown, never interpreted.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.receiver.visible_text import json_text, visible

_PIPE_WIDTH: Final = 100_000
_COLOURS: Final = {
    "active": "green",
    "delivered": "green",
    "ok": "green",
    "paused": "yellow",
    "unverified": "yellow",
    "retrying": "yellow",
    "held": "yellow",
    "warning": "yellow",
    "pending": "cyan",
    "in_flight": "cyan",
    "disabled": "red",
    "dead_lettered": "red",
    "failed": "red",
    "cancelled": "magenta",
}


def make_console() -> Console:
    """Returns a console on stdout."""
    if sys.stdout.isatty():
        return Console(file=sys.stdout, highlight=False)
    return Console(file=sys.stdout, highlight=False, width=_PIPE_WIDTH, color_system=None)


def print_json(document: Any) -> None:  # noqa: ANN401 - JSON is what it is
    """Prints one document, indented."""
    sys.stdout.write(json_text(document) + "\n")
    sys.stdout.flush()


def print_json_line(document: Any) -> None:  # noqa: ANN401
    """Prints one document of a stream, on a line of its own."""
    sys.stdout.write(json_text(document, indent=None) + "\n")
    sys.stdout.flush()


def print_rows(heads: Sequence[str], rows: Iterable[Sequence[object]], nothing: str) -> None:
    """Prints a table.

    Args:
        nothing: the sentence that stands for an empty one; on a pipe to stderr, lest it be taken for a row.
    """
    cells = [[cell(value) for value in row] for row in rows]
    is_terminal = sys.stdout.isatty()
    if not cells:
        (sys.stdout if is_terminal else sys.stderr).write(nothing + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD if is_terminal else None, pad_edge=False, header_style="bold")
    for head, column in zip(heads, zip(*cells, strict=True), strict=True):
        is_count = all(one.plain.isdigit() for one in column)
        table.add_column(head, overflow="fold", justify="right" if is_count else "left")
    for row in cells:
        table.add_row(*row)
    _print_plain(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Prints names and values below each other; what is None or empty is left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in fields:
        if value not in (None, "", [], {}):
            table.add_row(name, cell(value))
    _print_plain(table)


def print_line(text: str | Text) -> None:
    """Prints a line, as it is; the terminal may break it."""
    make_console().print(text, soft_wrap=True, markup=False)


def cell(value: object) -> Text:
    """Returns a value as a cell: states in their colours, nothing as a dash, lists with commas."""
    if value is None or value == "":
        return Text("-", style="dim")
    if isinstance(value, Text):
        return value
    if isinstance(value, dict):
        value = ", ".join(f"{name}: {one}" for name, one in value.items())
    elif isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    text = visible(str(value))
    return Text(text, style=_COLOURS.get(text, ""))


def _print_plain(table: Table) -> None:
    console = make_console()
    if console.is_terminal:
        console.print(table)
        return
    # rich pads every line to the table's width; spaces at a line's end are noise in a pipe.
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))
