"""The schedule clock: what the engine, the log's stamps and every retention go by.

It follows the line of `schedule_line` and is the same across restarts: once a second the line is noted in the
data directory. Within one boot the next process goes on along it, to the millisecond. After a reboot only the
wall clock knows how long the machine was off; what was still to be made good then is made good further, and
time does not go back.

The note is replaced whole and not synced: a power cut is a reboot, and a note that is missing or torn then
means what it means at the first start, that the wall clock is right.

It also notices that the wall clock is set while it runs: then the difference between wall clock and boot time
changes. That needs no threshold of trust, because the boot time cannot be set.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec
import structlog

from deploy.process.schedule_line import NS_PER_MS, ScheduleLine

NOTE_FILE: Final = "clock.json"
FOLLOW_S: Final = 0.25
NOTE_S: Final = 1.0
STEP_NS_MIN: Final = 500 * NS_PER_MS
"""NTP slews what is below 128 ms; the rest of the margin is for a late thread."""
SETTLED_NS: Final = 5_000_000_000
"""A clock that was set is taken as it is after so long without another step."""
JUMP_SETTLED_NS: Final = 60_000_000_000
_TOGETHER_NS_MAX: Final = 5_000_000
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_log = structlog.get_logger("hooktide.process")


class Reading(NamedTuple):
    """Both clocks at one moment, in nanoseconds."""

    boot_ns: int
    wall_ns: int


class Sources(NamedTuple):
    """Where the clocks are read.

    Attributes:
        boot_ns: the time since the machine was booted, suspends included; cannot be set.
        wall_ns: UTC; can be set.
        boot_id: another one after each boot; empty where the system has none.
    """

    boot_ns: Callable[[], int]
    wall_ns: Callable[[], int]
    boot_id: str

    def read(self) -> Reading:
        """Reads both; again when something came between (SIGSTOP), which would look like a step."""
        while True:
            before_ns = self.boot_ns()
            wall_ns = self.wall_ns()
            after_ns = self.boot_ns()
            if after_ns - before_ns <= _TOGETHER_NS_MAX:
                return Reading(after_ns, wall_ns)


class Note(msgspec.Struct, frozen=True):
    """What is kept: the line, and the reading that it was drawn by."""

    boot_id: str
    line: ScheduleLine
    wall_ns: int


def system_sources() -> Sources:
    """Returns the system's clocks. Without `CLOCK_BOOTTIME` (macOS) the monotonic clock stands in."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    try:
        boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        boot_id = ""
    return Sources(lambda: time.clock_gettime_ns(clock), time.time_ns, boot_id)


class ScheduleClock:
    """The schedule clock of one process; any thread may read it.

    Args:
        sources: the clocks.
        note: what an earlier process left, or None.

    Attributes:
        is_same_boot: whether the note is of this boot: then a wall clock that went back was set, by somebody
            who knew what he did, and nothing has to be proved.
        known_ms: what the wall clock showed when it was noted last; 0 when it was not.
    """

    def __init__(self, sources: Sources, note: Note | None = None) -> None:
        self._sources = sources
        self.is_same_boot = False
        self.known_ms = note.wall_ns // NS_PER_MS if note is not None else 0
        now = sources.read()
        if note is None:
            line = ScheduleLine(now.boot_ns, now.wall_ns)
        elif note.boot_id == sources.boot_id and sources.boot_id and note.line.boot_ns <= now.boot_ns:
            line = note.line.followed(now.boot_ns, now.wall_ns)
            self.is_same_boot = True
        else:
            passed_ns = max(now.wall_ns - note.wall_ns, 0)
            line = ScheduleLine(now.boot_ns, note.line.steady_ns + passed_ns)
            line = line.followed(now.boot_ns, now.wall_ns)
        self._line = line
        self._offset_ns = now.wall_ns - now.boot_ns
        self._set_at_ns: int | None = None
        self._far_since_ns: int | None = None
        self._note_path: Path | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def resume(cls, directory: Path, sources: Sources | None = None) -> Self:
        """Returns the clock of a data directory, which need not exist yet; only reads."""
        return cls(sources or system_sources(), read_note(directory))

    def now_ms(self) -> int:
        """Returns the schedule clock, milliseconds UTC."""
        return self._line.at(self._sources.boot_ns()) // NS_PER_MS

    def wall_ms(self) -> int:
        """Returns the wall clock, milliseconds UTC: what the world goes by."""
        return self._sources.wall_ns() // NS_PER_MS

    @property
    def ahead_ms(self) -> int:
        """How far the schedule clock is ahead of the wall clock, milliseconds; negative when behind."""
        return self.now_ms() - self.wall_ms()

    @property
    def was_set_just_now(self) -> bool:
        """Whether the wall clock was set within the last seconds, and may be set again."""
        set_at_ns = self._set_at_ns
        return set_at_ns is not None and self._sources.boot_ns() - set_at_ns < SETTLED_NS

    def go_on_from(self, at_ms: int) -> None:
        """Makes sure that it is not before a record that there is already."""
        line = self._line
        if line.steady_ns < at_ms * NS_PER_MS:
            raised = ScheduleLine(line.boot_ns, at_ms * NS_PER_MS)
            self._line = raised.followed(line.boot_ns, line.steady_ns + line.gap_ns)

    def follow(self) -> None:
        """Looks at the wall clock once; called four times a second."""
        now = self._sources.read()
        offset_ns = now.wall_ns - now.boot_ns
        set_by_ns, self._offset_ns = offset_ns - self._offset_ns, offset_ns
        line = self._line.followed(now.boot_ns, now.wall_ns)
        if abs(set_by_ns) >= STEP_NS_MIN:
            self._set_at_ns = now.boot_ns
            self._far_since_ns = None
            by_s, behind_s = round(set_by_ns / 1e9, 3), round(line.gap_ns / 1e9, 3)
            _log.warning("wall_clock_set", by_s=by_s, schedule_behind_s=behind_s)
        if not line.is_far_behind:
            self._far_since_ns = None
        elif self._far_since_ns is None:
            self._far_since_ns = now.boot_ns
        elif now.boot_ns - self._far_since_ns >= JUMP_SETTLED_NS:
            _log.warning("schedule_clock_jumped", by_s=round(line.gap_ns / 1e9))
            line = ScheduleLine(now.boot_ns, now.wall_ns)
        self._line = line

    def start(self, directory: Path) -> None:
        """Starts the thread that follows, and notes the line in the data directory."""
        assert self._thread is None, "the clock was started twice"
        self._note_path = directory / NOTE_FILE
        self._write_note()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and notes the line a last time."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._write_note()

    def _run(self) -> None:
        noted_at_s = time.monotonic()
        while not self._closing.wait(FOLLOW_S):
            self.follow()
            if time.monotonic() - noted_at_s >= NOTE_S:
                noted_at_s = time.monotonic()
                self._write_note()

    def _write_note(self) -> None:
        """Replaces the note; on a full disk the last one stays, which is as good within this boot."""
        assert self._note_path is not None, "noted before it was started"
        line = self._line
        note = Note(self._sources.boot_id, line, line.steady_ns + line.gap_ns)
        unfinished = self._note_path.with_name(f"{NOTE_FILE}.unfinished")
        try:
            unfinished.write_bytes(msgspec.json.encode(note) + b"\n")
            unfinished.replace(self._note_path)
        except OSError as error:
            _log.debug("clock_not_noted", error=str(error))


def read_note(directory: Path) -> Note | None:
    """Returns the note of a data directory; None when there is none that can be read."""
    try:
        return msgspec.json.decode((directory / NOTE_FILE).read_bytes(), type=Note)
    except (OSError, msgspec.MsgspecError):
        return None
