"""Takes care of the local log: tries whether it can be written, and lets it forget what is too old.

A RocksDB whose write has failed once (a dead disk) refuses every later write until it is opened again. The
process would then answer 503 for ever and look alive. So a small write is tried every two seconds; when six
in a row fail, the process ends, and whoever starts it again gets either a log that works or a sentence that
says why it does not open.

Failures while the disk is full count for nothing: reads go on meanwhile, and a start would not help. When
there is room again RocksDB heals itself within 5 s (it looks by itself, and begins a new write-ahead log),
which is why six failures are waited for and not three.

Rejected: counting the failures of publishes (a quiet night would hide them until the morning), and opening
the log again inside the process (every flow holds readers and appends of the old one; starting is one
procedure, and it is tested).
"""

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import GroupOffset, TopicPartition
from schemas.errors import LogUnavailable
from schemas.topics import SHARDS

TRY_S: Final = 2.0
FAILURES_MAX: Final = 6
RETENTION_S: Final = 60.0
GROUP: Final = "process"

_PLACE: Final = {TopicPartition(SHARDS.name, 0): GroupOffset(0, "")}
_log = structlog.get_logger("hooktide.process")


class LogCare:
    """Cares in a thread of its own.

    Args:
        on_death: called once, with the last error, when the log cannot be written any more.
        clock_ms: milliseconds UTC; what is past its retention is judged by it.
        has_room: whether the disk has space; see `disk_guard`.
        try_s: between two tries, seconds.
        retention_s: between two looks for what may be forgotten, seconds.

    Attributes:
        success_count: how many tries went well.
    """

    def __init__(
        self,
        log: LocalLog,
        on_death: Callable[[str, BaseException], None],
        clock_ms: Callable[[], int],
        *,
        has_room: Callable[[], bool] = lambda: True,
        try_s: float = TRY_S,
        retention_s: float = RETENTION_S,
    ) -> None:
        self.success_count = 0
        self._log = log
        self._on_death = on_death
        self._clock_ms = clock_ms
        self._has_room = has_room
        self._try_s = try_s
        self._retention_s = retention_s
        self._is_failing = False
        self._failure_count = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-care", daemon=True)

    @property
    def is_failing(self) -> bool:
        """Whether the last try failed."""
        return self._is_failing

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; what runs is waited for, because the log may be closed afterwards."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._care()
        except Exception as error:  # noqa: BLE001 - a thread has nobody above it to raise to
            self._on_death("the log", error)

    def _care(self) -> None:
        looked_at_s = time.monotonic()
        while not self._closing.wait(self._try_s):
            try:
                self._log.commit(GROUP, _PLACE)
                if time.monotonic() - looked_at_s >= self._retention_s:
                    looked_at_s = time.monotonic()
                    self._forget()
            except LogUnavailable as error:
                self._failure_count = self._failure_count + 1 if self._has_room() else 0
                if self._failure_count or not self._is_failing:
                    _log.warning("log_not_writable", tries=self._failure_count, error=str(error))
                self._is_failing = True
                if self._failure_count >= FAILURES_MAX:
                    raise
            else:
                self._failure_count = 0
                self._is_failing = False
                self.success_count += 1

    def _forget(self) -> None:
        forgotten = self._log.enforce_retention(self._clock_ms())
        if forgotten:
            _log.info("records_past_retention_forgotten", count=forgotten)
