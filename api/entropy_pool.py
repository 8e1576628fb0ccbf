"""Random bytes in small portions, drawn from the system in large ones.

An event id takes 10 bytes, and on a slow (sandboxed) kernel the system call for them costs half as much as
everything else in a publish. Secrets are drawn directly: they are rare, and no part of one should linger.
"""

from collections.abc import Callable
from typing import Final

_DRAWN_BYTES: Final = 4_096


class EntropyPool:
    """Hands out each drawn byte once. Belongs to one thread.

    Args:
        draw: returns that many random bytes, fit for ids that must not be guessed.
    """

    def __init__(self, draw: Callable[[int], bytes]) -> None:
        self._draw = draw
        self._bytes = b""
        self._used = 0

    def take(self, count: int) -> bytes:
        """Returns `count` bytes (at most a few dozen) that nobody got before."""
        used = self._used + count
        if used > len(self._bytes):
            self._bytes = self._draw(_DRAWN_BYTES)
            used = count
        self._used = used
        return self._bytes[used - count : used]
