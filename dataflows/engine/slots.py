"""The slots of a process: how many requests may be in flight, shared by its shards.

The plain count that the isolation work replaces by fair slot-time. Owned by the worker thread of `deliver`;
other threads may read the counts.

While the process may start nothing (the disk is nearly full) no slot is free: what waits for one is hungry as
ever, and is woken when slots are given out again.
"""

from collections.abc import Callable


class Slots:
    """Free and taken slots.

    Args:
        total: requests in flight at once.
        may_start: whether new ones may be started now; asked at every look.
    """

    def __init__(self, total: int, may_start: Callable[[], bool] = lambda: True) -> None:
        self.total = total
        self.taken = 0
        self._may_start = may_start
        self.hungry: set[int] = set()
        """Shards that found no slot although something waits; they are woken when slots are free again."""

    @property
    def is_open(self) -> bool:
        """Whether anything may start at all."""
        return self._may_start()

    @property
    def free(self) -> int:
        """How many requests may start now."""
        return self.total - self.taken if self._may_start() else 0

    def take(self, count: int) -> None:
        """Takes slots that were free."""
        self.taken += count
        assert self.taken <= self.total, (self.taken, self.total)

    def release(self, count: int) -> None:
        """Gives slots back, after the outcomes were written."""
        self.taken -= count
        assert self.taken >= 0, self.taken
