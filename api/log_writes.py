"""Appends to the log from the event loop: a future per append, one wake-up per batch of acknowledgements.

The log acknowledges from its own thread, a group commit's worth at a time. `call_soon_threadsafe` writes to a
pipe, so calling it per record would cost more than the append; the first acknowledgement of a batch wakes
the loop, the others find it woken.

Rejected: `append_and_wait` in a thread pool (a thread per publish in flight), and polling.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from api.problems import ProblemError
from dataflows.connectors.log.port import Appended, Entry, Log, TopicPartition
from schemas.errors import HooktideError, LogUnavailable
from schemas.problem_codes import ProblemCode

DISK_RETRY_AFTER_S: Final = "10"
"""Somebody has to make room, which takes longer than a log that is slow for a moment."""

_Answer = tuple[asyncio.Future[Appended], Appended | HooktideError]


class LogWrites:
    """Belongs to one event loop.

    Args:
        log: may be shared with anybody.
        timeout_ms: how long an append is waited for.
        has_room: whether there is space for more; nothing is appended while it says no.
    """

    def __init__(self, log: Log, timeout_ms: int, has_room: Callable[[], bool] = lambda: True) -> None:
        self._log = log
        self._timeout_s = timeout_ms / 1_000
        self._has_room = has_room
        self._answers: deque[_Answer] = deque()
        self._is_woken = False

    async def append(self, to: TopicPartition, entries: Sequence[Entry]) -> Appended:
        """Appends and waits until it is durable.

        Raises:
            LogUnavailable: no acknowledgement in time, or a refusal; the write may or may not have happened.
            ProblemError: `disk_full`; nothing was written.
        """
        if not self._has_room():
            raise ProblemError(
                ProblemCode.DISK_FULL,
                "There is too little space left to keep this safe. Nothing was written: send it again later.",
                headers={"Retry-After": DISK_RETRY_AFTER_S},
            )
        loop = asyncio.get_running_loop()
        acknowledged: asyncio.Future[Appended] = loop.create_future()

        def on_appended(result: Appended | HooktideError) -> None:
            self._answers.append((acknowledged, result))
            if not self._is_woken:
                self._is_woken = True
                with suppress(RuntimeError):  # the loop has ended; so has whoever waited
                    loop.call_soon_threadsafe(self._deliver)

        self._log.append(to, entries, on_appended)
        # A bare timer is a third of the cost of `asyncio.timeout`, which also has cancellation to care for.
        timer = loop.call_later(self._timeout_s, self._give_up, acknowledged, to)
        try:
            return await acknowledged
        finally:
            timer.cancel()

    def _give_up(self, acknowledged: asyncio.Future[Appended], to: TopicPartition) -> None:
        if not acknowledged.done():
            detail = f"{to.topic}[{to.partition}] was not acknowledged within {self._timeout_s:g} s"
            acknowledged.set_exception(LogUnavailable(detail))

    def _deliver(self) -> None:
        # First lower the flag, then empty the queue: whatever comes in between wakes the loop once more.
        self._is_woken = False
        answers = self._answers
        while answers:
            acknowledged, result = answers.popleft()
            if acknowledged.done():
                continue
            if isinstance(result, Appended):
                acknowledged.set_result(result)
            else:
                acknowledged.set_exception(result)
