"""The disk guard: when there is too little, when there is enough again, and whose deaths it keeps."""

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.connectors.rocks_failure import translated
from deploy.process.disk_guard import (
    FILES_MIN,
    DiskGuard,
    DiskSpace,
    blamed_on_disk,
    is_short,
    marks_of,
    space_of,
    try_to_write,
)
from deploy.process.exit_codes import ExitCode, code_of_death, code_of_start
from schemas.errors import DamagedStore, DiskFull, LogUnavailable, StoreUnavailable, Unavailable

MIB = 1 << 20
GIB = 1 << 30
ROOMY = DiskSpace(100 * GIB, 200 * GIB)
FULL = DiskSpace(0, 200 * GIB)

sizes = st.integers(0, 1 << 50)


@given(sizes, sizes, sizes)
def test_the_marks_lie_apart_and_leave_nine_tenths_for_work(free_min: int, total: int, free: int) -> None:
    marks = marks_of(free_min, total)
    space = DiskSpace(free, total)

    assert 0 <= marks.low <= marks.high <= total
    assert marks.low <= min(free_min, total // 10)
    # What was enough stays enough until it falls below the low mark, and the other way round.
    assert is_short(space, free_min, was_short=False) == (free < marks.low)
    assert is_short(space, free_min, was_short=True) == (free < marks.high)


@pytest.mark.parametrize(
    ("total", "low"), [(200 * GIB, 512 * MIB), (5 * GIB, 512 * MIB), (1 * GIB, GIB // 10), (0, 0)]
)
def test_a_small_volume_has_a_small_reserve(total: int, low: int) -> None:
    assert marks_of(512 * MIB, total).low == low


@pytest.mark.parametrize(
    ("free_files", "total_files", "short"),
    [(0, 0, False), (0, 1_000_000, True), (FILES_MIN - 1, 1_000_000, True), (FILES_MIN, 1_000_000, False)],
)
def test_a_file_system_without_room_for_files_is_full(
    free_files: int,
    total_files: int,
    short: bool,  # noqa: FBT001 - a column of the table
) -> None:
    assert is_short(DiskSpace(GIB, GIB, free_files, total_files), 0, was_short=False) == short


class Desk:
    """A guard over a disk that the test fills, and everything it said."""

    def __init__(self, directory: Path, space: DiskSpace = ROOMY, *, calm_s: float = 0.0) -> None:
        self.space: DiskSpace | OSError = space
        self.unwritable: OSError | None = None
        self.deaths: list[tuple[str, BaseException]] = []
        self.trials = 0
        self.looks = 0
        self.guard = DiskGuard(
            directory,
            512 * MIB,
            lambda part, error: self.deaths.append((part, error)),
            look=self._look,
            try_write=self._try_write,
            look_s=0.001,
            calm_s=calm_s,
        )

    def _look(self, _: Path) -> DiskSpace:
        self.looks += 1
        if isinstance(self.space, OSError):
            raise self.space
        return self.space

    def _try_write(self, _: Path) -> None:
        self.trials += 1
        if self.unwritable is not None:
            raise self.unwritable

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        until_s = time.monotonic() + 10
        while not is_so():
            assert time.monotonic() < until_s, "it never came to be"
            threading.Event().wait(0.001)

    def look_again(self) -> None:
        """Waits until the guard has looked twice more: the second look began after this call."""
        until = self.looks + 2
        self.wait_until(lambda: self.looks >= until)


def test_room_goes_and_comes_back_by_itself(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.guard.start()
    desk.wait_until(lambda: desk.guard.has_room)

    desk.space = DiskSpace(512 * MIB - 1, 200 * GIB)
    desk.wait_until(lambda: not desk.guard.has_room)
    desk.space = DiskSpace(600 * MIB, 200 * GIB)  # between the marks: not yet
    desk.look_again()
    assert not desk.guard.has_room
    desk.space = DiskSpace(640 * MIB, 200 * GIB)
    desk.wait_until(lambda: desk.guard.has_room)
    desk.guard.close()

    assert (desk.deaths, desk.trials) == ([], 0)


def test_a_full_disk_is_known_before_anything_starts(tmp_path: Path) -> None:
    assert not Desk(tmp_path, FULL).guard.has_room


def test_a_disk_that_cannot_be_looked_at_changes_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path, FULL)
    desk.guard.start()
    desk.space = OSError(errno.EIO, "a loose cable")
    desk.look_again()
    assert not desk.guard.has_room
    desk.space = ROOMY
    desk.wait_until(lambda: desk.guard.has_room)
    desk.guard.close()


def no_space_of_a_file() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def with_cause(error: BaseException) -> RuntimeError:
    outer = RuntimeError("outer")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "space", "is_kept"),
    [
        (DiskFull("no space"), ROOMY, True),  # a quota: the file system as such has room
        (StoreUnavailable("anything"), FULL, True),
        (LogUnavailable("anything"), FULL, True),
        (StoreUnavailable("anything"), ROOMY, False),
        (no_space_of_a_file(), ROOMY, True),
        (OSError(errno.EDQUOT, "quota"), ROOMY, True),
        (with_cause(no_space_of_a_file()), ROOMY, True),
        (OSError(errno.EIO, "broken"), FULL, False),
        (AssertionError("a bug of ours"), FULL, False),
        (DamagedStore("damaged"), FULL, False),
    ],
)
def test_it_keeps_the_deaths_that_the_disk_caused_and_no_other(
    tmp_path: Path,
    error: BaseException,
    space: DiskSpace,
    is_kept: bool,  # noqa: FBT001 - a column
) -> None:
    desk = Desk(tmp_path, space)

    desk.guard.take_death("deliver", error)

    assert desk.deaths == ([] if is_kept else [("deliver", error)])
    assert desk.guard.has_room == (not is_kept and space is ROOMY)


def test_a_kept_death_is_handed_on_once_when_there_is_room_and_a_file_can_be_written(tmp_path: Path) -> None:
    desk = Desk(tmp_path, FULL)
    first, second = DiskFull("first"), DiskFull("second")
    desk.unwritable = no_space_of_a_file()
    desk.guard.start()
    desk.guard.take_death("deliver", first)
    desk.guard.take_death("the log", second)
    desk.look_again()
    assert (desk.trials, desk.deaths) == (0, [])

    desk.space = ROOMY
    desk.wait_until(lambda: desk.trials > 0)  # a quota may still say no
    assert desk.deaths == []
    assert not desk.guard.has_room
    desk.unwritable = None
    desk.wait_until(lambda: bool(desk.deaths))
    desk.guard.close()

    assert desk.deaths == [("deliver", first)]
    assert not desk.guard.has_room, "a process with a dead part takes nothing new until its end"


def test_a_stop_does_not_wait_for_room(tmp_path: Path) -> None:
    desk = Desk(tmp_path, FULL)
    error, later = DiskFull("full"), DiskFull("at the last barrier")
    desk.guard.start()
    desk.guard.take_death("deliver", error)

    desk.guard.close()
    desk.guard.take_death("closing", later)

    assert desk.deaths == [("deliver", error), ("closing", later)]


def test_a_start_on_a_full_disk_says_so_and_may_be_tried_again(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there yet"
    whole = space_of(tmp_path).total_bytes
    cause: Unavailable = StoreUnavailable("the delivery log cannot be opened")

    assert blamed_on_disk(cause, directory, 0) is cause
    assert space_of(tmp_path).free_bytes > 0
    full = blamed_on_disk(DiskFull("writing the log"), directory, 0)

    assert isinstance(full, DiskFull)
    assert "make room and start again" in str(full)
    assert "writing the log" in str(full)
    assert code_of_start(full) == code_of_death(full) == ExitCode.FAILED
    assert whole > 0


@pytest.mark.parametrize(
    "raw", [no_space_of_a_file(), Exception("IO error: No space left on device: /x/4.log")]
)
def test_a_store_without_space_is_neither_damaged_nor_refused(tmp_path: Path, raw: Exception) -> None:
    assert isinstance(translated(raw, "writing to the shard store", tmp_path), DiskFull)


def test_the_trial_leaves_nothing(tmp_path: Path) -> None:
    try_to_write(tmp_path)
    assert list(tmp_path.iterdir()) == []
