"""Watches whether the log can be written, and says so before somebody finds out with an event.

A RocksDB whose write has failed once (a full disk, a dead one) refuses every later write until it is opened
again, also when the disk has room again. The process would then answer 503 for ever and look alive. So a
small write is tried every two seconds; when three in a row fail, the process ends, and whoever starts it
again gets either a log that works or a sentence that says why it does not open.

Rejected: counting the failures of publishes (a quiet night would hide them until the morning), and opening
the log again inside the process (every flow holds readers and appends of the old one; starting is one
procedure, and it is tested).
"""

import threading
from collections.abc import Callable
from typing import Final

import structlog

from dataflows.connectors.log.port import GroupOffset, Log, TopicPartition
from schemas.errors import HooktideError
from schemas.topics import SHARDS

PROBE_S: Final = 2.0
FAILURES_MAX: Final = 3
GROUP: Final = "process"

_log = structlog.get_logger("hooktide.process")


class LogWatch:
    """Tries the log in a thread of its own.

    Args:
        on_death: called once, with the last error, when the log cannot be written any more.
        probe_s: between two tries, seconds.

    Attributes:
        success_count: how many tries went well.
    """

    def __init__(
        self, log: Log, on_death: Callable[[str, BaseException], None], *, probe_s: float = PROBE_S
    ) -> None:
        self._log = log
        self._on_death = on_death
        self._probe_s = probe_s
        self.success_count = 0
        self._failure_count = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-watch", daemon=True)

    @property
    def is_failing(self) -> bool:
        """Whether the last try failed."""
        return self._failure_count > 0

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; a try that runs is waited for, because the log may be closed afterwards."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        place = {TopicPartition(SHARDS.name, 0): GroupOffset(0, "")}
        while not self._closing.wait(self._probe_s):
            try:
                self._log.commit(GROUP, place)
            except HooktideError as error:
                self._failure_count += 1
                _log.warning("log_not_writable", tries=self._failure_count, error=str(error))
                if self._failure_count >= FAILURES_MAX:
                    self._on_death("the log", error)
                    return
            else:
                self._failure_count = 0
                self.success_count += 1
