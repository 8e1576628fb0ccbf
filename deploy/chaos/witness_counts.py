"""What the witness counts, for the harness to read without asking."""

from pathlib import Path
from typing import NamedTuple

from deploy.chaos.shared_page import SharedNumbers


class Counts(NamedTuple):
    """What the witness has seen.

    Attributes:
        received: requests, complete.
        in_flight: of them neither answered nor cut off.
        accepted: different (webhook-id, path) pairs that were answered with a 2xx.
        last_at_ns: when the last one was received; CLOCK_MONOTONIC.
    """

    received: int = 0
    in_flight: int = 0
    accepted: int = 0
    last_at_ns: int = 0


class SharedCounts:
    """The witness writes them, the harness reads them.

    Args:
        file: made by whoever comes first.
    """

    def __init__(self, file: Path) -> None:
        self._numbers = SharedNumbers(file, len(Counts._fields))

    def write(self, counts: Counts) -> None:
        """Shows these."""
        self._numbers.write(counts)

    def read(self) -> Counts:
        """Returns what was shown last."""
        return Counts(*self._numbers.read())
