"""Whether the clock can be trusted: receivers refuse signed timestamps that are five minutes off.

What a process can know by itself is little, so each rule is a proof, not a guess:

- A clock before `BUILT_AT_MS` was never set: this program did not exist then.
- A clock that is more than two minutes behind what it showed here before the machine was booted contradicts
  itself. When the kernel says that NTP keeps it in step now, it was wrong then and is right now; when it does
  not, nobody knows, and going on would sign with a time that may be hours off. (Without a note of what it
  showed, the newest record of our own log stands in.)
- A clock that goes back within one boot was set: the boot time shows it. Whoever sets a clock knows better
  than we do, so it is believed, as soon as it has been left alone for a few seconds.

Rejected: the kernel's own estimate of the error as a measure (it stops counting at 16 s, so "more than two
minutes" can never be read from it); its word alone (most containers and many good servers say
"unsynchronised", because the host keeps the time); asking an NTP server (a second way out of the process, and
firewalls close it); the `Date` header of endpoints' answers (they are foreign, and some are hours off).
A clock that is ahead of the world cannot be noticed here; then the endpoints' refusals show it.

Source: adjtimex(2); Linux kernel/time/ntp.c (NTP_PHASE_LIMIT).
"""

import ctypes
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from dataflows.connectors.log.port import Log, TopicPartition
from deploy.process.schedule_clock import ScheduleClock
from schemas.topics import ALL_TOPICS

BUILT_AT_MS: Final = 1_767_225_600_000  # 2026-01-01
BEHIND_MS_MAX: Final = 120_000
"""Verifiers allow five minutes; what is left is for the way and for the receiver's own clock."""
_STA_UNSYNC: Final = 0x40
_TIMEX_BYTES: Final = 208
_STATUS_AT: Final = 40  # struct timex on 64 bits: modes, padding, offset, freq, maxerror, esterror, status


class Clock:
    """Judges the wall clock against what this process knows.

    Args:
        clock: read, and asked whether somebody sets it.
        newest_record_ms: time of the newest record in our own log; 0 for an empty one.
        is_kept_in_step: whether the kernel says that NTP keeps the clock.
    """

    def __init__(
        self,
        clock: ScheduleClock,
        newest_record_ms: int = 0,
        is_kept_in_step: Callable[[], bool] | None = None,
    ) -> None:
        self._clock = clock
        self._newest_ms = newest_record_ms
        self._is_kept_in_step = is_kept_in_step or is_kept_in_step_by_ntp

    def objection(self) -> str | None:
        """Returns why nothing should be started by this clock, in one sentence, or None."""
        wall_ms = self._clock.wall_ms()
        if wall_ms < BUILT_AT_MS:
            return _never_set(wall_ms)
        if self._clock.is_same_boot:
            return None
        # The note before the log: stamps of records may be ahead of a wall clock that was set back.
        known_ms = self._clock.known_ms or self._newest_ms
        behind_ms = known_ms - wall_ms
        if behind_ms <= BEHIND_MS_MAX or self._is_kept_in_step():
            return None
        return (
            f"the clock says {_shown(wall_ms)}, but it was {_shown(known_ms)} here already, "
            f"{behind_ms // 60_000} minutes later, and NTP does not keep it: set it, or start NTP"
        )

    def complaint(self) -> str | None:
        """Returns what is wrong with the clock of a running process now, in one sentence, or None."""
        wall_ms = self._clock.wall_ms()
        if wall_ms < BUILT_AT_MS:
            return _never_set(wall_ms)
        if self._clock.was_set_just_now:
            return "the clock was set just now, and may be set again"
        return None


def newest_record_ms(log: Log) -> int:
    """Returns the time of the newest record in any partition; 0 when there is none."""
    newest = 0
    for topic in ALL_TOPICS:
        for number in range(log.partition_count(topic.name)):
            of = TopicPartition(topic.name, number)
            last = log.end(of) - 1
            if last < log.start(of):
                continue
            reader = log.reader({of: last})
            try:
                newest = max([newest, *(record.timestamp_ms for record in reader.poll(of, 1))])
            finally:
                reader.close()
    return newest


def is_kept_in_step_by_ntp() -> bool:
    """Asks the kernel; False where it cannot be asked."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None or ctypes.sizeof(ctypes.c_long) != 8:
        return False
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes 0: only asks, which needs no right
    if adjtimex(timex) < 0:
        return False
    status = ctypes.c_int.from_buffer(timex, _STATUS_AT).value
    return not status & _STA_UNSYNC


def _never_set(wall_ms: int) -> str:
    return f"the clock says {_shown(wall_ms)}, so it was never set: set it, or start NTP"


def _shown(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
