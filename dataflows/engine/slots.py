"""The slots of a process: how many requests may be in flight, shared by its shards.

The plain count that the isolation work replaces by fair slot-time. Owned by the worker thread of `deliver`;
other threads may read the counts.
"""


class Slots:
    """Free and taken slots.

    Args:
        total: requests in flight at once.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        self.hungry: set[int] = set()
        """Shards that found no slot although something waits; they are woken when slots are free again."""

    @property
    def free(self) -> int:
        """How many requests may start now."""
        return self.total - self.taken

    def take(self, count: int) -> None:
        """Takes slots that were free."""
        self.taken += count
        assert self.taken <= self.total, (self.taken, self.total)

    def release(self, count: int) -> None:
        """Gives slots back, after the outcomes were written."""
        self.taken -= count
        assert self.taken >= 0, self.taken
