"""A flow's heartbeat: tells the watchdog that it lives, and everybody else that it has begun.

It counts from the first poll on, not from the start of the thread: before that a flow reconciles its stores
with the log, which may take minutes and is no stall.
"""

from dataflows.engine.watchdog import Pulse, Watchdog


class Heartbeat:
    """Beaten by one flow's sources, looked at by any thread.

    Args:
        watchdog: watches from the first beat on.
        name: of the flow.
    """

    def __init__(self, watchdog: Watchdog, name: str) -> None:
        self._watchdog = watchdog
        self._name = name
        self._pulse: Pulse | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the flow was polled at all."""
        return self._pulse is not None

    def beat(self) -> None:
        """Says: I was polled just now."""
        if self._pulse is None:
            self._pulse = self._watchdog.watch(self._name)
        self._pulse.beat()

    def end(self) -> None:
        """Says: I have ended, and my silence means nothing."""
        self._watchdog.release(self._name)
