"""One measured figure, and how it is measured: CPU of the process over a counted piece of work.

CPU and not wall time, because these machines have neighbours; and per event, because that is what a budget is
made of. Wall time is kept beside it, for rates. Compare figures of one run only.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

QUIET_WINDOW_S = 0.5
QUIET_SHARE = 0.02


class Figure(Struct, kw_only=True):
    """The cost of one stage.

    Attributes:
        case: what was varied (number of endpoints, pending deliveries, ...).
        worker_us: of it, the thread that did the work; the rest is other threads', such as compaction.
        count: events, deliveries or requests: what the cost is divided by.
    """

    stage: str
    case: str
    count: int
    user_us: float
    sys_us: float
    worker_us: float
    wall_s: float
    rss_mb: float
    note: str = ""

    @property
    def cpu_us(self) -> float:
        """User and system time per event, in microseconds."""
        return self.user_us + self.sys_us

    @property
    def per_second(self) -> float:
        """Events per second of wall time."""
        return self.count / self.wall_s if self.wall_s else 0.0


class Meter:
    """CPU and wall time between two moments; `figure` divides them."""

    def __init__(self) -> None:
        self.user_s = self.sys_s = self.worker_s = self.wall_s = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Adds what happens inside."""
        before, began, worker = (
            resource.getrusage(resource.RUSAGE_SELF),
            time.perf_counter(),
            time.thread_time(),
        )
        yield
        self.worker_s += time.thread_time() - worker
        after, ended = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        self.user_s += after.ru_utime - before.ru_utime
        self.sys_s += after.ru_stime - before.ru_stime
        self.wall_s += ended - began

    def figure(self, stage: str, case: str, count: int, note: str = "") -> Figure:
        """Returns the cost per event."""
        return Figure(
            stage=stage,
            case=case,
            count=count,
            user_us=self.user_s / count * 1e6,
            sys_us=self.sys_s / count * 1e6,
            worker_us=self.worker_s / count * 1e6,
            wall_s=self.wall_s,
            rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            note=note,
        )


def wait_until_quiet(timeout_s: float = 60.0) -> None:
    """Waits until other threads rest: what a preparation left to compact is not the stage's cost."""
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        before = time.process_time()
        time.sleep(QUIET_WINDOW_S)
        if time.process_time() - before < QUIET_WINDOW_S * QUIET_SHARE:
            return
