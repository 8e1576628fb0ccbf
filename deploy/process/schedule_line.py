"""The schedule clock's course: a line that follows the wall clock, and never jumps with it.

What retries and record stamps go by must neither jump nor go back: a step of an hour forward would send every
retry of that hour at once, a step back would hold them for an hour, and would stamp events as older than the
endpoints that wait for them. So the schedule clock runs with the time that really passes (`CLOCK_BOOTTIME`,
which goes on through a suspend) and makes good what the wall clock was set by slowly: at most 2 % faster or
slower, so that a retry is at most 2 % off, well inside its jitter of 0-25 %.

A wall clock that is more than the 72 hours of the retry window ahead, and stays so, is taken as it is: then
this machine was wrong by more than anything waits, and stamps far in the past would be older than what the
delivery log keeps. One that is behind is never taken at once, because time would have to go back.

Rejected: correcting small steps at once (two seconds are half of a four second retry); a faster correction
(10 % makes good an hour in ten hours instead of fifty, and sends a retry of 5 minutes 27 s early); none at
all (times shown would stay wrong until the next start).
"""

from typing import Final, NamedTuple

NS_PER_MS: Final = 1_000_000
SMEAR_DIVISOR: Final = 50
"""The clock gains or loses at most 1/50 of the time that passes."""
JUMP_NS_MIN: Final = 72 * 3_600 * 1_000 * NS_PER_MS


class ScheduleLine(NamedTuple):
    """Where the schedule clock is, as a function of the time that passed. All in nanoseconds.

    Attributes:
        boot_ns: `CLOCK_BOOTTIME` where the line begins.
        steady_ns: the schedule clock there, UTC.
        gap_ns: what is still to be gained (positive) or lost.

    Invariants:
        Never goes back; never gains or loses more than 1/`SMEAR_DIVISOR`; arrives after `gap_ns` x
        `SMEAR_DIVISOR` and then runs with the time.
    """

    boot_ns: int
    steady_ns: int
    gap_ns: int = 0

    def at(self, boot_ns: int) -> int:
        """Returns the schedule clock at a moment; before the line's beginning, its first value."""
        passed_ns = max(boot_ns - self.boot_ns, 0)
        slipped_ns = min(passed_ns // SMEAR_DIVISOR, abs(self.gap_ns))
        return self.steady_ns + passed_ns + (slipped_ns if self.gap_ns > 0 else -slipped_ns)

    def followed(self, boot_ns: int, wall_ns: int) -> "ScheduleLine":
        """Returns the line from here on, towards the wall clock as it is now."""
        steady_ns = self.at(boot_ns)
        return ScheduleLine(boot_ns, steady_ns, wall_ns - steady_ns)

    @property
    def is_far_behind(self) -> bool:
        """Whether the wall clock is ahead by more than anything waits."""
        return self.gap_ns > JUMP_NS_MIN
