"""The wish to stop: one flag that a process's signal handler raises and every source looks at.

A plain attribute and no `threading.Event`: a signal handler runs on the main thread between two bytecodes,
and when it interrupts that same thread inside `Event.wait`, `Event.set` waits for a lock its own thread
holds, for ever. Assigning an attribute is atomic, and sources look at it every few milliseconds anyway.
"""


class StopSignal:
    """Whether a stop was asked for. Thread-safe, safe in signal handlers, never taken back."""

    __slots__ = ("_is_requested",)

    def __init__(self) -> None:
        self._is_requested = False

    def request(self) -> None:
        """Asks every source that looks at this signal to end. Asking twice is asking once."""
        self._is_requested = True

    @property
    def is_requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._is_requested
