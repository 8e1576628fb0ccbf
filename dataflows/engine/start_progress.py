"""How far a process's start has come: records of its shards' topics that were taken into their stores.

Most starts are over before anybody could look. After a lost directory there may be millions of transitions to
redo, and a process that says nothing for a minute gets killed by its operator. So it says, once a second, how
many of how many; the rest is known at the beginning, because the ends of the topics are.

Written by the thread that starts, read by any.
"""

import time
from collections.abc import Callable

import structlog

SAY_EVERY_S = 1.0

_log = structlog.get_logger(__name__)


class StartProgress:
    """Counts the records of one start.

    Args:
        clock: monotonic seconds.

    Attributes:
        records_done, records_total: over all shards; 0 of 0 before the totals are known.
        words: where it stands, for a person; empty as long as it is not slow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.records_done = 0
        self.records_total = 0
        self.words = ""
        self._clock = clock
        self._said_at_s = clock()

    @property
    def percent(self) -> int:
        """How much is done, 0 to 100."""
        return 100 * self.records_done // self.records_total if self.records_total else 0

    def begin(self, records_total: int) -> None:
        """Says how many there are."""
        self.records_total = records_total
        self._said_at_s = self._clock()

    def advance(self, shard: int, records: int) -> None:
        """Counts records that are done; about once a second it logs where it stands."""
        self.records_done = min(self.records_done + records, self.records_total)
        now_s = self._clock()
        if now_s - self._said_at_s >= SAY_EVERY_S:
            self._said_at_s = now_s
            self.words = f"shard {shard}, {self.percent} % of {self.records_total:,} records read"
            _log.info(
                "reconcile_progress",
                shard=shard,
                records_done=self.records_done,
                records_total=self.records_total,
                percent=self.percent,
            )
