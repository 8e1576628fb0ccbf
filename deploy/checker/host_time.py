"""Two clocks in one picture: from Hooktide's wall clock to the host's monotonic one.

Hooktide stamps attempts with its wall clock, which a scenario may step; everything else is stamped with
CLOCK_MONOTONIC. A wall time maps to a monotonic one under each offset that may have been in force then: the
last declared one, the one before it (a step does not reach everything at once), and none (a process may
refuse to follow a step). Without a step that is exactly one. The mapping is used to exclude what cannot be,
never to accuse by itself.
"""

from bisect import bisect_right
from collections.abc import Iterable

from deploy.checker.history import Fault, FaultKind, Run

NS_PER_MS = 1_000_000


class HostTime:
    """The mapping of one run.

    Attributes:
        is_stepped: whether the run has any declared step.
    """

    def __init__(self, run: Run, faults: Iterable[Fault], ended_at_ns: int) -> None:
        steps = sorted((f.began_at_ns, f.clock_offset_ms) for f in faults if f.kind is FaultKind.CLOCK_STEP)
        self._run = run
        self._ended_at_ns = ended_at_ns
        self._step_at_ns = [at_ns for at_ns, _ in steps]
        self._offsets_ms = [0, *(offset_ms for _, offset_ms in steps)]
        self._distinct = sorted(set(self._offsets_ms))
        self.is_stepped = bool(steps)

    def true_ms(self, at_ns: int) -> int:
        """Returns the true wall time of a monotonic moment, milliseconds UTC."""
        return self._run.started_at_ms + (at_ns - self._run.started_at_ns) // NS_PER_MS

    def offsets_ms(self, at_ns: int) -> tuple[int, ...]:
        """Returns the offsets of Hooktide's clock that may be in force at a monotonic moment."""
        if not self.is_stepped:
            return (0,)
        place = bisect_right(self._step_at_ns, at_ns)
        return (0, self._offsets_ms[place], self._offsets_ms[max(place - 1, 0)])

    def moments_ns(self, at_ms: int) -> tuple[int, ...]:
        """Returns the monotonic moments that Hooktide may have called by this wall time, at most a few.

        Moments outside the run are none: that makes the answer single wherever steps are longer than the run.
        """
        base_ns = self._run.started_at_ns + (at_ms - self._run.started_at_ms) * NS_PER_MS
        if not self.is_stepped:
            return (base_ns,)
        moments = (base_ns - offset_ms * NS_PER_MS for offset_ms in self._distinct)
        tolerance_ns = self._run.clock_tolerance_ms * NS_PER_MS
        return tuple(
            at_ns
            for at_ns, offset_ms in zip(moments, self._distinct, strict=True)
            if self._run.started_at_ns - tolerance_ns <= at_ns <= self._ended_at_ns + tolerance_ns
            and (offset_ms in self.offsets_ms(at_ns) or offset_ms in self.offsets_ms(at_ns + tolerance_ns))
        )

    def skew_ms(self, at_ns: int, wall_at_ms: int) -> int:
        """Returns how far a wall time lies from the true one, or from what a step makes of it."""
        true_ms = self.true_ms(at_ns)
        return min(abs(wall_at_ms - true_ms - offset_ms) for offset_ms in self.offsets_ms(at_ns))
