"""The watchdog: notices a flow whose sources are no longer polled.

A callback that blocks (a lock, a disk that hangs) freezes a flow silently, and the process looks alive.
Sources therefore `beat` at every poll, and a thread that goes by the monotonic clock reports whoever fell
silent; the process then exits with a code of its own, and a restart heals it. Steps of the wall clock need no
watchdog: nothing of ours goes by it (docs/adr/0007-two-clocks.md).

When the watchdog's own check comes far too late, the whole process stood still (SIGSTOP, a suspended
machine, a starved host). That is nobody's stall: everybody gets a fresh period.

Rejected: watching from inside a flow (it freezes with the flow); one thread per flow.
"""

import threading
import time
from collections.abc import Callable

OnStall = Callable[[str, float], None]


class Pulse:
    """What one flow beats. A beat costs one clock reading; any thread may do it."""

    __slots__ = ("_clock", "beaten_at_s", "is_reported")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.beaten_at_s = clock()
        self.is_reported = False

    def beat(self) -> None:
        """Says: I was polled just now."""
        self.beaten_at_s = self._clock()


class Watchdog:
    """Reports flows that were not polled for too long.

    Args:
        on_stall: called with the flow's name and how long it has been silent, in seconds, once per silence.
        silent_s_max: longer than any callback may take; a chdb insert or a slow fsync must not look like a
            stall.
        check_s: how often to look; a quarter of `silent_s_max` unless said otherwise.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        on_stall: OnStall,
        *,
        silent_s_max: float = 20.0,
        check_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_stall = on_stall
        self._silent_s_max = silent_s_max
        self._check_s = silent_s_max / 4 if check_s is None else check_s
        self._clock = clock
        self._pulses: dict[str, Pulse] = {}
        self._lock = threading.Lock()
        self._checked_at_s = clock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, name: str) -> Pulse:
        """Returns the pulse that the flow `name` has to beat from now on; a new one replaces the old one."""
        pulse = Pulse(self._clock)
        with self._lock:
            self._pulses[name] = pulse
        return pulse

    def release(self, name: str) -> None:
        """Stops watching `name`: it ended, and its silence means nothing."""
        with self._lock:
            self._pulses.pop(name, None)

    def check(self) -> None:
        """Looks once at every pulse and reports the silent ones; the thread calls it every `check_s`."""
        now_s = self._clock()
        stood_still = now_s - self._checked_at_s > self._check_s + self._silent_s_max / 2
        self._checked_at_s = now_s
        stalled: list[tuple[str, float]] = []
        with self._lock:
            for name, pulse in self._pulses.items():
                if stood_still:
                    pulse.beaten_at_s = now_s
                silent_s = now_s - pulse.beaten_at_s
                if silent_s <= self._silent_s_max:
                    pulse.is_reported = False
                elif not pulse.is_reported:
                    pulse.is_reported = True
                    stalled.append((name, silent_s))
        for name, silent_s in stalled:
            self._on_stall(name, silent_s)

    def start(self) -> None:
        """Starts the thread that checks."""
        assert self._thread is None, "the watchdog was started twice"
        self._checked_at_s = self._clock()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; nothing is reported afterwards."""
        self._closing.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._check_s):
            self.check()
