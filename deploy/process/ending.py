"""Why and when the process ends: a person's signal, or the death of one of its parts.

The first SIGTERM or SIGINT asks for a graceful stop, the second one ends the process at once: whoever presses
Ctrl-C twice means it, and a crash is a way to stop that loses nothing.

The handlers are Python's own and not the event loop's, because they must work before the loop runs and
while it is blocked.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import structlog

from deploy.process.exit_codes import ExitCode

_log = structlog.get_logger("hooktide.process")


class Ending:
    """The wish to end. Any thread may fail it, one event loop waits for it.

    Args:
        exit_now: ends the process without cleaning up.
    """

    def __init__(self, exit_now: Callable[[int], None] = os._exit) -> None:
        self.failed_part: str | None = None
        self.failure: BaseException | None = None
        self._exit_now = exit_now
        self._is_asked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the process is to end."""
        return self._is_asked or self.failure is not None

    def listen(self) -> None:
        """Takes over SIGTERM and SIGINT; on the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def fail(self, part: str, error: BaseException) -> None:
        """Says that a part died; the first one counts."""
        if self.failure is None:
            self.failed_part, self.failure = part, error
        self._wake_up()
        _log.error("part_died", part=part, error=f"{type(error).__name__}: {error}", exc_info=error)

    async def wait(self) -> None:
        """Waits until the process is to end."""
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if not self.has_begun:
            await self._event.wait()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._is_asked:
            self._exit_now(ExitCode.INTERRUPTED)
        self._is_asked = True
        self._wake_up()
        del number

    def _wake_up(self) -> None:
        if self._loop is not None and self._event is not None:
            with suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._event.set)
