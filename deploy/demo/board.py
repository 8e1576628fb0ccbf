"""What the demo shows: a live table on a terminal, plain lines on a pipe, one document for a program."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, Self

from msgspec import to_builtins
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deploy.cli.output import make_console, print_json, print_rows
from deploy.demo.comparison import Tally
from deploy.demo.stage import PARTS

DIFFERENCES_SHOWN_MAX: Final = 20
_LINE_S: Final = 2.0

Answered = Mapping[tuple[str, bool], int]
Ended = Mapping[tuple[str, str], int]


class Board(Protocol):
    """Where the demo is shown; a context manager while it plays."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        """Says what goes on."""

    def show(self, published: int, answered: Answered, ended: Ended) -> None:
        """Shows how far it is."""

    def conclude(self, events: int, tallies: Mapping[str, Tally], differences: Sequence[str]) -> None:
        """Shows the comparison."""


def make_board(*, as_json: bool) -> Board:
    """Returns the board that fits stdout."""
    if as_json:
        return JsonBoard()
    return LiveBoard() if sys.stdout.isatty() else PlainBoard()


class PlainBoard:
    """Lines, one every few seconds."""

    def __init__(self) -> None:
        self._shown_at_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def say(self, text: str) -> None:
        """Prints it."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def show(self, published: int, answered: Answered, ended: Ended) -> None:
        """Prints a line when the last one is old."""
        now_s = time.monotonic()
        if now_s - self._shown_at_s >= _LINE_S:
            self._shown_at_s = now_s
            ends = f"{_count(ended, 'delivered')} delivered, {_count(ended, 'dead_lettered')} dead letters"
            self.say(f"{published} events published, {sum(answered.values())} requests received, {ends}")

    def conclude(self, events: int, tallies: Mapping[str, Tally], differences: Sequence[str]) -> None:
        """Prints the counts of both sides, and what differs."""
        self.say(f"\n{events} events, as the API tells it and as the receivers counted it:\n")
        print_rows(
            ("endpoint", "events", "delivered", "accepted", "dead letters", "requests sent", "received"),
            [
                (
                    name,
                    str(tally.events),
                    str(tally.delivered),
                    str(tally.accepted_received),
                    str(tally.dead_lettered),
                    str(tally.requests_told),
                    str(tally.requests_received),
                )
                for name, tally in tallies.items()
            ],
            "",
        )
        if differences:
            self.say(f"\n{len(differences)} DIFFERENCES:")
            for sentence in differences[:DIFFERENCES_SHOWN_MAX]:
                self.say(f"  {sentence}")
            if len(differences) > DIFFERENCES_SHOWN_MAX:
                self.say(f"  and {len(differences) - DIFFERENCES_SHOWN_MAX} more; --json lists all")
        else:
            self.say("\nNo difference: every event, every request, every answer, every byte agrees.")


class LiveBoard(PlainBoard):
    """A table that changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self._live = Live(console=make_console(), refresh_per_second=10, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, published: int, answered: Answered, ended: Ended) -> None:
        """Draws the table anew."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("endpoint")
        table.add_column("", style="dim")
        for head in ("2xx", "errors", "delivered", "dead letters"):
            table.add_column(head, justify="right", min_width=6)
        for part in PARTS:
            table.add_row(
                part.name,
                part.what,
                Text(str(answered.get((part.name, True), 0)), style="green"),
                Text(str(answered.get((part.name, False), 0)), style="yellow"),
                str(ended.get((part.name, "delivered"), 0)),
                Text(str(ended.get((part.name, "dead_lettered"), 0)), style="red"),
            )
        self._live.update(Group(Text(f"{published} events published\n"), table))


class JsonBoard(PlainBoard):
    """One document at the end."""

    def say(self, text: str) -> None:
        """Says it on stderr."""
        sys.stderr.write(text + "\n")

    def show(self, published: int, answered: Answered, ended: Ended) -> None:
        """Shows nothing."""

    def conclude(self, events: int, tallies: Mapping[str, Tally], differences: Sequence[str]) -> None:
        """Prints the document."""
        print_json(
            {"events": events, "endpoints": to_builtins(dict(tallies)), "differences": list(differences)}
        )


def _count(ended: Ended, state: str) -> int:
    return sum(count for (_, one), count in ended.items() if one == state)
