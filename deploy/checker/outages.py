"""Outages: faults, and what they excuse.

A process that died may repeat what it had in flight; a system that was not there may be late.

Faults that follow each other before the system was ready again are one outage: a kill, then the loss of the
directory, then the start. What it may repeat is the sum.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from msgspec import Struct

from deploy.checker.history import Fault, FaultKind, Run
from deploy.checker.host_time import NS_PER_MS

FOR_EVER_NS = 1 << 62
_REPEATS_NOTHING = frozenset({FaultKind.STOP, FaultKind.DAMAGE, FaultKind.LOST_DIRECTORY})
_DIES_AT_ONCE = frozenset({FaultKind.KILL, FaultKind.POWER_CUT, FaultKind.STOP})


class Outage(Struct):
    """Faults from the first one's beginning to the system's return.

    Attributes:
        cut_until_ns: a request that was received later was sent by the next process.
        recovered_at_ns: `FOR_EVER_NS` when it never was.
        repeats_max: how many requests it may cut and so repeat.
        can_cut: whether a process may have died in it.
    """

    began_at_ns: int
    cut_until_ns: int
    recovered_at_ns: int
    repeats_max: int
    can_cut: bool
    faults: list[Fault]


class Outages:
    """All outages of a run, in order of time; they do not overlap."""

    def __init__(self, run: Run, faults: Iterable[Fault]) -> None:
        self.all: list[Outage] = []
        for fault in sorted(faults, key=lambda fault: fault.began_at_ns):
            outage = _outage(run, fault)
            if self.all and outage.began_at_ns <= self.all[-1].recovered_at_ns:
                _merge(self.all[-1], outage)
            else:
                self.all.append(outage)
        self._cutting = [place for place, outage in enumerate(self.all) if outage.can_cut]
        self._cut_until_ns = [self.all[place].cut_until_ns for place in self._cutting]
        self.excuse = Excuse((o.began_at_ns, o.recovered_at_ns) for o in self.all)

    def cutting(self, received_at_ns: int) -> int | None:
        """Returns the place of the outage that may have cut a request, the first at or after it."""
        place = bisect_left(self._cut_until_ns, received_at_ns)
        return self._cutting[place] if place < len(self._cutting) else None


class Excuse:
    """Intervals that excuse lateness, merged and in order."""

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        self._began_ns: list[int] = []
        self._ended_ns: list[int] = []
        for began_ns, ended_ns in sorted(intervals):
            if self._began_ns and began_ns <= self._ended_ns[-1]:
                self._ended_ns[-1] = max(self._ended_ns[-1], ended_ns)
            else:
                self._began_ns.append(began_ns)
                self._ended_ns.append(ended_ns)

    def end_ns(self, since_ns: int, deadline_ns: int) -> int | None:
        """Returns the end of the last interval that meets `since_ns` .. `deadline_ns`, None without one."""
        place = bisect_right(self._began_ns, deadline_ns) - 1
        if place < 0 or self._ended_ns[place] <= since_ns:
            return None
        return self._ended_ns[place]


def is_excused(since_ns: int, deadline_ns: int, slack_ns: int, happened_at_ns: int, *excuses: Excuse) -> bool:
    """Whether what was due between two moments may have happened as late as it did.

    Each interval met moves the deadline to its end plus the slack; a moved deadline may meet the next one.
    """
    while deadline_ns < happened_at_ns:
        ends = [end for excuse in excuses if (end := excuse.end_ns(since_ns, deadline_ns)) is not None]
        moved_ns = max(ends, default=0) + slack_ns
        if moved_ns <= deadline_ns:
            return False
        deadline_ns = moved_ns
    return True


def _outage(run: Run, fault: Fault) -> Outage:
    recovered_at_ns = fault.recovered_at_ns if fault.recovered_at_ns is not None else FOR_EVER_NS
    dead_at_ns = fault.ended_at_ns if fault.kind in _DIES_AT_ONCE else recovered_at_ns
    default = 0 if fault.kind in _REPEATS_NOTHING else run.slots
    return Outage(
        began_at_ns=fault.began_at_ns,
        cut_until_ns=dead_at_ns + run.witness_lag_ms * NS_PER_MS,
        recovered_at_ns=recovered_at_ns,
        repeats_max=default if fault.repeats_max is None else fault.repeats_max,
        can_cut=fault.kind not in (FaultKind.DAMAGE, FaultKind.LOST_DIRECTORY),
        faults=[fault],
    )


def _merge(outage: Outage, following: Outage) -> None:
    outage.recovered_at_ns = max(outage.recovered_at_ns, following.recovered_at_ns)
    outage.repeats_max += following.repeats_max
    outage.faults += following.faults
    if following.can_cut:
        outage.cut_until_ns = max(outage.cut_until_ns, following.cut_until_ns)
        outage.can_cut = True
