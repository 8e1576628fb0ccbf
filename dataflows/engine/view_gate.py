"""The gate that makes a flow read its writes: received blocks wait until a table view has caught up.

Whoever creates an endpoint and then publishes an event expects the endpoint to get it. So the end of the
view's topic is asked for once per batch of blocks, *after* they were received, and they go on when the view
has reached it. It never goes on with an old view: while the log does not answer, or the view meets a record
it cannot read, blocks wait and the alarm is repeated.
"""

import time
from collections.abc import Callable
from typing import Protocol

import structlog

from dataflows.connectors.log.port import Log, TopicPartition
from schemas.errors import HooktideError

ALARM_AFTER_S = 2.0
ALARM_EVERY_S = 10.0
RETRY_S = 0.25
CATCH_UP_RECORDS = 2_000
"""A poll's share of catching up, some 20 ms of decoding; the worker has other duties in between."""

_log = structlog.get_logger(__name__)


class View(Protocol):
    """What the gate needs of a table view."""

    def catch_up(self, limit_records: int) -> int:
        """Applies some of what has come."""

    def reached(self, end: int) -> bool:
        """Whether everything below `end` is in the view."""


class ViewGate:
    """Opens when the view has reached the end that its topic had when blocks were received.

    Args:
        of: the topic's partition.
        clock: monotonic seconds.
    """

    def __init__(
        self, log: Log, of: TopicPartition, view: View, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._of = of
        self._view = view
        self._clock = clock
        self._end: int | None = None
        self._alarm_at_s = 0.0
        self._ask_at_s = 0.0

    def shut(self) -> None:
        """Blocks were received: whatever was reached before does not count."""
        self._end = None
        self._alarm_at_s = self._clock() + ALARM_AFTER_S
        self._ask_at_s = 0.0

    def is_open(self) -> bool:
        """Whether the blocks may go on."""
        if self._ask_at_s > 0.0 and self._clock() < self._ask_at_s:
            return False
        try:
            if self._end is None:
                self._end = self._log.end(self._of)
            self._view.catch_up(CATCH_UP_RECORDS)
        except HooktideError as error:
            self._alarm(str(error))
            self._ask_at_s = self._clock() + RETRY_S
            return False
        if self._view.reached(self._end):
            return True
        self._alarm("the view is still reading")
        return False

    def _alarm(self, why: str) -> None:
        now_s = self._clock()
        if now_s >= self._alarm_at_s:
            self._alarm_at_s = now_s + ALARM_EVERY_S
            _log.error("waiting_for_view", topic=self._of.topic, end=self._end, why=why)
