"""How a command tells a person that it cannot do what was asked: one sentence a line, on stderr."""

import sys
from contextlib import suppress


def complain(sentences: str) -> None:
    """Writes the sentences, each with the name of the program in front."""
    with suppress(OSError):  # nobody reads us, which changes nothing about the exit code
        for sentence in sentences.splitlines():
            sys.stderr.write(f"hooktide: {sentence}\n")
        sys.stderr.flush()
