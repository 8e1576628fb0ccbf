"""The schedule clock: it never goes back, never runs away, and is the same after a restart."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.process.schedule_clock import (
    JUMP_SETTLED_NS,
    NOTE_FILE,
    SETTLED_NS,
    ScheduleClock,
    Sources,
    read_note,
    system_sources,
)
from deploy.process.schedule_line import JUMP_NS_MIN, NS_PER_MS, SMEAR_DIVISOR, ScheduleLine

S = 1_000_000_000
HOUR = 3_600 * S
DAY = 24 * HOUR
NOW = 1_790_000_000 * S


class Machine:
    """A machine whose clocks a test moves."""

    def __init__(self, boot_id: str = "first") -> None:
        self.boot_ns = 1_000 * S
        self.wall_ns = NOW
        self.boot_id = boot_id

    @property
    def sources(self) -> Sources:
        return Sources(lambda: self.boot_ns, lambda: self.wall_ns, self.boot_id)

    def pass_ns(self, passed_ns: int) -> None:
        """Lets time pass."""
        self.boot_ns += passed_ns
        self.wall_ns += passed_ns

    def follow(self, clock: ScheduleClock, passed_ns: int, every_ns: int = S) -> None:
        """Lets time pass while the clock looks at it."""
        for _ in range(passed_ns // every_ns):
            self.pass_ns(every_ns)
            clock.follow()

    def reboot(self, off_ns: int) -> None:
        """Is off for so long, and comes up with another boot id."""
        self.wall_ns += off_ns
        self.boot_ns, self.boot_id = 20 * S, self.boot_id + "+"


passings = st.integers(0, 100 * HOUR)
gaps = st.integers(-JUMP_NS_MIN, JUMP_NS_MIN)


@given(gap_ns=gaps, moments=st.lists(passings, min_size=2).map(sorted))
def test_a_line_never_goes_back_and_never_gains_or_loses_more_than_it_may(
    gap_ns: int, moments: list[int]
) -> None:
    line = ScheduleLine(0, NOW, gap_ns)
    for before, after in pairwise(moments):
        passed, moved = after - before, line.at(after) - line.at(before)
        assert abs(moved - passed) <= passed // SMEAR_DIVISOR + 1
        assert moved >= 0


@given(gap_ns=gaps)
def test_a_line_arrives_and_does_not_overshoot(gap_ns: int) -> None:
    line = ScheduleLine(0, NOW, gap_ns)
    arrives_ns = abs(gap_ns) * SMEAR_DIVISOR
    assert line.at(arrives_ns) == NOW + arrives_ns + gap_ns
    assert line.at(arrives_ns + DAY) == NOW + arrives_ns + gap_ns + DAY


@given(
    steps=st.lists(st.tuples(st.integers(0, HOUR), st.integers(-DAY, DAY)), max_size=20),
)
def test_whatever_the_wall_clock_does_time_goes_on_at_its_pace(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    clock = ScheduleClock(machine.sources)
    for passed_ns, step_ns in steps:
        before_ms, boot_ns = clock.now_ms(), machine.boot_ns
        machine.wall_ns += step_ns
        clock.follow()
        assert clock.now_ms() == before_ms
        machine.pass_ns(passed_ns)
        clock.follow()
        passed_ms = (machine.boot_ns - boot_ns) / NS_PER_MS
        assert abs(clock.now_ms() - before_ms - passed_ms) <= passed_ms / SMEAR_DIVISOR + 2


@pytest.mark.parametrize("step_ns", [HOUR, -HOUR])
def test_an_hour_is_made_good_in_fifty(step_ns: int) -> None:
    machine = Machine()
    clock = ScheduleClock(machine.sources)
    machine.wall_ns += step_ns
    machine.follow(clock, 49 * HOUR, every_ns=HOUR)
    assert abs(clock.ahead_ms) > 60_000
    machine.follow(clock, 2 * HOUR, every_ns=HOUR)
    assert clock.ahead_ms == 0


def test_a_clock_that_is_set_is_noticed_and_believed_after_a_while() -> None:
    machine = Machine()
    clock = ScheduleClock(machine.sources)
    machine.follow(clock, 10 * S)
    seen = [clock.was_set_just_now]
    machine.wall_ns -= HOUR
    clock.follow()
    seen.append(clock.was_set_just_now)
    machine.follow(clock, SETTLED_NS)
    seen.append(clock.was_set_just_now)
    assert seen == [False, True, False]


def test_a_suspended_machine_has_not_set_its_clock() -> None:
    machine = Machine()
    clock = ScheduleClock(machine.sources)
    machine.pass_ns(8 * HOUR)  # the boot time goes on through a suspend
    clock.follow()
    assert not clock.was_set_just_now
    assert clock.ahead_ms == 0


def test_being_stopped_between_two_readings_is_no_step() -> None:
    machine = Machine()
    stops = [60 * S]

    def read_wall_ns() -> int:
        wall_ns = machine.wall_ns
        if stops:
            machine.pass_ns(stops.pop())
        return wall_ns

    reading = Sources(lambda: machine.boot_ns, read_wall_ns, "first").read()
    assert reading == (machine.boot_ns, machine.wall_ns)


def test_a_wall_clock_that_stays_far_ahead_is_taken_and_a_glitch_is_not() -> None:
    machine = Machine()
    clock = ScheduleClock(machine.sources)
    machine.wall_ns += 400 * DAY
    machine.follow(clock, JUMP_SETTLED_NS // 2)
    machine.wall_ns -= 400 * DAY
    machine.follow(clock, 2 * JUMP_SETTLED_NS)
    assert abs(clock.ahead_ms) < 2_000

    machine.wall_ns += 400 * DAY
    machine.follow(clock, JUMP_SETTLED_NS + S)
    assert clock.ahead_ms == 0


def test_a_wall_clock_that_is_far_behind_is_never_taken_at_once() -> None:
    machine = Machine()
    clock = ScheduleClock(machine.sources)
    before_ms = clock.now_ms()
    machine.wall_ns -= 400 * DAY
    machine.follow(clock, HOUR, every_ns=60 * S)
    assert clock.now_ms() > before_ms


def test_a_restart_within_a_boot_goes_on_along_the_same_line(tmp_path: Path) -> None:
    machine = Machine()
    clock = ScheduleClock.resume(tmp_path, machine.sources)
    assert not clock.is_same_boot
    machine.wall_ns -= HOUR
    clock.follow()
    clock.start(tmp_path)
    clock.close()
    machine.pass_ns(90 * S)
    expected_ms = clock.now_ms()

    machine.wall_ns += DAY  # set while nobody looked
    resumed = ScheduleClock.resume(tmp_path, machine.sources)

    assert resumed.is_same_boot
    assert resumed.now_ms() == expected_ms


@pytest.mark.parametrize("ahead_ns", [0, HOUR, -HOUR])
def test_after_a_reboot_the_wall_clock_tells_how_long_it_was_off(tmp_path: Path, ahead_ns: int) -> None:
    machine = Machine()
    clock = ScheduleClock.resume(tmp_path, machine.sources)
    machine.wall_ns -= ahead_ns
    clock.follow()
    clock.start(tmp_path)
    clock.close()
    before_ms, ahead_ms = clock.now_ms(), clock.ahead_ms

    machine.reboot(off_ns=2 * HOUR)
    resumed = ScheduleClock.resume(tmp_path, machine.sources)

    assert not resumed.is_same_boot
    assert resumed.now_ms() == before_ms + 2 * HOUR // NS_PER_MS
    assert resumed.ahead_ms == ahead_ms


def test_after_a_reboot_with_an_earlier_clock_time_does_not_go_back(tmp_path: Path) -> None:
    machine = Machine()
    clock = ScheduleClock.resume(tmp_path, machine.sources)
    clock.start(tmp_path)
    clock.close()

    machine.reboot(off_ns=-DAY)
    resumed = ScheduleClock.resume(tmp_path, machine.sources)

    assert resumed.now_ms() == NOW // NS_PER_MS
    assert resumed.known_ms == NOW // NS_PER_MS


@pytest.mark.parametrize("raw", [b"", b"{", b'{"boot_id": 1}', b"\0" * 100])
def test_a_note_that_cannot_be_read_is_a_first_start(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / NOTE_FILE).write_bytes(raw)
    clock = ScheduleClock.resume(tmp_path, Machine().sources)
    assert (clock.is_same_boot, clock.known_ms, clock.now_ms()) == (False, 0, NOW // NS_PER_MS)


def test_it_goes_on_from_the_newest_record_and_follows_the_wall_clock_down(tmp_path: Path) -> None:
    machine = Machine()
    clock = ScheduleClock.resume(tmp_path, machine.sources)
    clock.go_on_from(NOW // NS_PER_MS + 3_600_000)
    assert clock.ahead_ms == 3_600_000
    clock.go_on_from(NOW // NS_PER_MS)
    assert clock.ahead_ms == 3_600_000
    machine.follow(clock, 60 * HOUR, every_ns=HOUR)
    assert clock.ahead_ms == 0


def test_the_thread_follows_and_notes_by_itself(tmp_path: Path) -> None:
    clock = ScheduleClock.resume(tmp_path)
    clock.start(tmp_path)
    note = read_note(tmp_path)
    clock.close()
    later = read_note(tmp_path)
    assert note is not None
    assert later is not None
    assert note.boot_id == later.boot_id == system_sources().boot_id
    assert later.line.boot_ns >= note.line.boot_ns
    assert abs(clock.ahead_ms) < 60_000
