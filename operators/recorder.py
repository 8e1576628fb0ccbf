"""The exactly-once filter of one table: which rows of a block are new to the delivery log.

Rows arrive more than once. `record` may die between an insert and the commit of its position, and then
reads the same records again. A shard's owner may publish the same outbox row again after a restart, so one
row stands at two offsets of its topic. What never changes is a row's **stamp**: the owner's epoch and the
outbox sequence it was written under, or, for `events` and `deliveries`, (0, offset).

Per partition the filter keeps the highest stamp that it ever handed out. A stamp above it is new. A stamp
at or below it is *suspect*: nearly always a repeat, so the caller asks the table whether it has that very
row. Asking instead of assuming is what makes three cases right without a proof about their order: an insert
that was applied in part (a block over a month's end is two parts), an insert whose answer was lost, and a
former owner's last row that lands after its successor's first. Suspects are rare, so asking costs nothing
in the steady state.

At the first sight of a partition the high-water comes from the table too: the highest stamp at or above the
block's lowest. What was inserted and never committed stands between the two, and is suspect by that.

Rejected: dropping everything at or below the high-water (loses a row in each of the three cases); holding
the set of all stamps since the committed position (unbounded when an owner publishes a long outbox again).
"""

from collections.abc import Collection, Sequence
from operator import lt
from typing import Any

from schemas.transition import RowStamp

Row = tuple[Any, ...]

_NOTHING = RowStamp(-1, -1)


class RowFilter:
    """Which rows of one table are new. Owned by one thread; no I/O: the caller asks the table and tells."""

    __slots__ = ("_high",)

    def __init__(self) -> None:
        self._high: dict[int, RowStamp] = {}

    def knows(self, partition: int) -> bool:
        """Whether `begin` was called for the partition."""
        return partition in self._high

    def begin(self, partition: int, high: RowStamp | None) -> None:
        """Takes the highest stamp in the table at or above the first block's lowest, or None."""
        self._high[partition] = high or _NOTHING

    def forget(self, partition: int) -> None:
        """Lets the partition begin anew; its position was set by somebody else."""
        self._high.pop(partition, None)

    def suspects(self, partition: int, stamps: Sequence[RowStamp]) -> list[RowStamp]:
        """Returns the stamps at or below the high-water: the caller asks the table which of them it has."""
        high = self._high[partition]
        if stamps[0] > high and _is_rising(stamps):
            return []
        return [stamp for stamp in stamps if stamp <= high]

    def admit(
        self, partition: int, stamps: Sequence[RowStamp], rows: Sequence[Row], present: Collection[RowStamp]
    ) -> Sequence[Row]:
        """Returns the rows to insert, each stamp once, and raises the high-water over all of them.

        It rises before the insert: if that fails, the whole block is suspect when it comes again, and the
            table says
        what became of it.

        Args:
            stamps: one for each row, in the order of the topic.
            present: which of the suspects the table has.
        """
        high = self._high[partition]
        if stamps[0] > high and _is_rising(stamps):
            self._high[partition] = stamps[-1]
            return rows
        taken = set(present)
        new: list[Row] = []
        for stamp, row in zip(stamps, rows, strict=True):
            if stamp not in taken:
                taken.add(stamp)
                new.append(row)
        self._high[partition] = max(high, *stamps)
        return new


def _is_rising(stamps: Sequence[RowStamp]) -> bool:
    return all(map(lt, stamps, stamps[1:]))
