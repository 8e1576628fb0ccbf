"""The clockwork of the reference model: a heap of acts, one process that can die, pause and come back.

Three kinds of acts differ in what happens to them meanwhile: the host's go on, the process's die with it, and
durable ones are done by the next process.
"""

import heapq
from collections.abc import Callable
from random import Random

MS = 1_000_000
START_NS = 5_000_000_000_000
START_MS = 1_800_000_000_000


class Clockwork:
    """Time, and who is there to use it. What an act draws, it draws from `rng`."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.seed = seed
        self.now = START_NS
        self.heap: list[tuple[int, int, str, int, Callable[..., None], tuple[object, ...]]] = []
        self.serial = 0
        self.epoch = 1
        self.down_until = 0
        self.paused_until = 0
        self.is_draining = False
        self.is_over = False
        self.offset_ms = 0

    @property
    def is_quiet(self) -> bool:
        return self.now >= max(self.down_until, self.paused_until) and not self.is_draining

    def host(self, at_ns: int, act: Callable[..., None], *args: object) -> None:
        self._push(at_ns, "host", act, args)

    def process(self, at_ns: int, act: Callable[..., None], *args: object) -> None:
        """What dies with the process."""
        self._push(at_ns, "process", act, args)

    def durable(self, at_ns: int, act: Callable[..., None], *args: object) -> None:
        """What the next process does, when this one cannot any more."""
        self._push(at_ns, "durable", act, args)

    def _push(self, at_ns: int, kind: str, act: Callable[..., None], args: tuple[object, ...]) -> None:
        self.serial += 1
        heapq.heappush(self.heap, (at_ns, self.serial, kind, self.epoch, act, args))

    def run_all(self) -> None:
        while self.heap and not self.is_over:
            self.now, _, kind, epoch, act, args = heapq.heappop(self.heap)
            later = self.rng.randrange(1, 20) * MS
            if kind == "process" and epoch != self.epoch:
                continue
            if kind != "host" and self.now < self.paused_until:
                self._push_again(self.paused_until + later, kind, epoch, act, args)
            elif kind == "durable" and (self.now < self.down_until or self.is_draining):
                self._push_again(max(self.down_until, self.now) + later, kind, epoch, act, args)
            else:
                act(*args)

    def _push_again(
        self, at_ns: int, kind: str, epoch: int, act: Callable[..., None], args: tuple[object, ...]
    ) -> None:
        self.serial += 1
        heapq.heappush(self.heap, (at_ns, self.serial, kind, epoch, act, args))

    def wall_ms(self, at_ns: int) -> int:
        return START_MS + (at_ns - START_NS) // MS + self.offset_ms
