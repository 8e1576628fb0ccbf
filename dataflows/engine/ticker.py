"""When the shards of a process have to be looked at although nothing came: its timers and its barriers.

Bytewax has both, timers (`notify_at`) and barriers (epochs), and goes by the wall clock with both. A step of
an hour back stops them for an hour, silently, and a step forward fires every timer (measured with 0.21.1;
polling goes on). So time comes in as an item here: the source of outcomes, which is polled every few
milliseconds whatever the wall clock does, asks this and sends a `Tick` to the shards concerned. Timers go by
the schedule clock, looks and barriers by the monotonic one.

A shard has at most one tick on its way. Whether one is, tells the watchdog more than a poll does: that what
is emitted also arrives.

Rejected: ending the process when the wall clock was set, and starting again (it costs what was in flight, and
needs a supervisor); timers in a thread (the shards belong to the worker's).
"""

import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from dataflows.engine.items import Tick

LOOK_S: Final = 0.5
"""Every shard is looked at this often: acknowledgements are taken in, whatever was missed is found."""


class Timed(Protocol):
    """What the ticker asks of a shard's runtime."""

    @property
    def timer_at_ms(self) -> int:
        """When the shard wants to act by itself, on the schedule clock."""


class Ticker:
    """Says which shards are due. Owned by the worker thread of `deliver`.

    Args:
        shards: by number.
        clock_ms: the schedule clock, milliseconds UTC.
        barrier_s: between two barriers, seconds.
        may_fire: while it says no, timers wait.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        shards: Mapping[int, Timed],
        clock_ms: Callable[[], int],
        barrier_s: float,
        *,
        may_fire: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shards = shards
        self._clock_ms = clock_ms
        self._barrier_s = barrier_s
        self._may_fire = may_fire
        self._clock = clock
        self._on_their_way: set[int] = set()
        self._barrier_at_s = clock() + barrier_s
        self._look_at_s = clock() + LOOK_S

    @property
    def is_answered(self) -> bool:
        """Whether every tick has arrived."""
        return not self._on_their_way

    def due(self) -> list[Tick]:
        """Returns the ticks to be sent now; each is on its way until `arrived`."""
        if self._on_their_way:
            return []
        now_s = self._clock()
        is_barrier = now_s >= self._barrier_at_s
        if is_barrier:
            self._barrier_at_s = now_s + self._barrier_s
        if is_barrier or now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_S
            shards = list(self._shards)
        elif self._may_fire():
            now_ms = self._clock_ms()
            shards = [number for number, shard in self._shards.items() if shard.timer_at_ms <= now_ms]
        else:
            return []
        self._on_their_way.update(shards)
        return [Tick(shard, is_barrier) for shard in shards]

    def arrived(self, shard: int) -> None:
        """Says that a shard's tick has arrived."""
        self._on_their_way.discard(shard)
