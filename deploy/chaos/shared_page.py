"""Numbers in a page of a file that two processes map: written by one, read by the other, kept when one dies.

The harness cannot ask a process that it has just killed how many slots it held, and a question to the witness
would be answered a millisecond late; what they had stored to a shared page is there, exact to the last
instruction.

Each number is stored whole, by one aligned store of eight bytes. `struct.pack_into` is not used, because it
clears the bytes before it fills them, and a reader (or a death) in between finds zeros.
"""

import mmap
from collections.abc import Sequence
from pathlib import Path

_WORD_BYTES = 8


class SharedNumbers:
    """A few unsigned numbers.

    Args:
        file: made by whoever comes first.
        count: how many.
    """

    def __init__(self, file: Path, count: int) -> None:
        with file.open("a+b") as opened:
            opened.truncate(count * _WORD_BYTES)
            self._words = memoryview(mmap.mmap(opened.fileno(), count * _WORD_BYTES)).cast("Q")

    def write(self, numbers: Sequence[int]) -> None:
        """Stores them, one after the other."""
        words = self._words
        for place, number in enumerate(numbers):
            words[place] = number

    def read(self) -> list[int]:
        """Returns what was stored last."""
        return self._words.tolist()


class HeldPage:
    """How many slots the victim holds: the bound on what its death may repeat."""

    def __init__(self, file: Path) -> None:
        self._numbers = SharedNumbers(file, 1)

    def write(self, held: int) -> None:
        """Shows it."""
        self._numbers.write((held,))

    def read(self) -> int:
        """Returns what was shown last."""
        return self._numbers.read()[0]
