"""Commits a group's offsets beside the flow, because a commit waits for the log and a flow must not wait.

The offsets offered last are what counts: a commit that failed is simply outdone by the next one. A crash
between two commits repeats at most what was handled in one interval, and everything downstream of a flow
recognises repeats.

Rejected: committing in the source's poll (a broker that is away for seconds would look like a stalled flow);
Kafka's auto-commit (commits what was read, not what was acknowledged).
"""

import threading
from collections.abc import Mapping

import structlog

from dataflows.connectors.log.port import GroupOffset, Log, TopicPartition
from schemas.errors import LogUnavailable

INTERVAL_MS = 200
CLOSE_TIMEOUT_S = 3.0

_log = structlog.get_logger(__name__)


class OffsetCommitter:
    """Commits what was offered, at most every `interval_ms`, in its own thread, and once at the end."""

    def __init__(self, log: Log, group: str, *, interval_ms: int = INTERVAL_MS) -> None:
        self._log = log
        self._group = group
        self._interval_s = interval_ms / 1_000
        self._lock = threading.Lock()
        self._offered: dict[TopicPartition, int] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"commit-{group}", daemon=True)
        self._thread.start()

    def offer(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Says what may be committed now; later offers for a partition replace earlier ones."""
        with self._lock:
            self._offered.update(offsets)

    def close(self) -> None:
        """Commits what is offered, once, and ends; gives up after a few seconds, which loses nothing."""
        self._closing.set()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closing.wait(self._interval_s):
            self._commit()
        self._commit()

    def _commit(self) -> None:
        with self._lock:
            offsets, self._offered = self._offered, {}
        if not offsets:
            return
        try:
            self._log.commit(self._group, {of: GroupOffset(at, "") for of, at in offsets.items()})
        except LogUnavailable as error:
            _log.warning("commit_failed", group=self._group, error=str(error))
            with self._lock:
                self._offered = offsets | self._offered
