"""The trap: kills its own process at the n-th passage of a named point, once enough is in flight.

It is SIGKILL to ourselves, on the thread that stands at the point: nothing after that line runs, no handler,
no `finally`, no buffer is flushed. What the process knew at that moment is left in a note beside the data
directory, written by one `write` to the page cache, which a process's death does not take back.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
from msgspec import Struct

from deploy.chaos.points import Point


class KillNote(Struct, frozen=True):
    """What the victim knew when it ended itself.

    Attributes:
        in_flight: submitted to the sender, and its outcome not collected.
        at_ns: CLOCK_MONOTONIC.
    """

    point: Point
    passages: int
    in_flight: int
    at_ns: int


class Trap:
    """One point, armed some time after the process is ready; then passages count, under load only.

    Args:
        point: None for a trap that never springs.
        passages: springs at this one.
        after_ms: from `arm` until passages count.
        in_flight_min: a passage with fewer in flight does not count.
        note: a file for the `KillNote`.

    Attributes:
        in_flight: asked for what was submitted and not collected.
        unanswered: asked for what the witness has received and not answered: on a starved machine many
            outcomes wait to be collected, and little is really on its way.
    """

    def __init__(
        self, point: Point | None, passages: int, after_ms: int, in_flight_min: int, note: Path
    ) -> None:
        self.point = point
        self.in_flight: Callable[[], int] = lambda: 0
        self.unanswered: Callable[[], int] | None = None
        self._passages = passages
        self._in_flight_min = in_flight_min
        self._note = note
        self._counted = 0
        self._after_ns = after_ms * 1_000_000
        self._armed_at_ns: int | None = None

    def arm(self) -> None:
        """From now on, and after the time that it was given, passages count."""
        self._armed_at_ns = time.monotonic_ns() + self._after_ns

    def pass_by(self, point: Point) -> None:
        """Called at a point; does not return when it springs."""
        if self.is_next(point):
            self.spring()

    def is_next(self, point: Point) -> bool:
        """Counts a passage; returns whether it is the last one, for points that prepare their end."""
        if point is not self.point or self._armed_at_ns is None:
            return False
        if time.monotonic_ns() < self._armed_at_ns or self.in_flight() < self._in_flight_min:
            return False
        if self.unanswered is not None and self.unanswered() < self._in_flight_min:
            return False
        self._counted += 1
        return self._counted >= self._passages

    def spring(self) -> NoReturn:
        """Leaves the note and ends the process."""
        assert self.point is not None
        note = KillNote(self.point, self._counted, self.in_flight(), time.monotonic_ns())
        file = os.open(self._note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(file, msgspec.json.encode(note))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("SIGKILL does not return")
