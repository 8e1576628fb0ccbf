"""The disk guard: stops new work while the disk is nearly full, and lets it go on when there is room again.

RocksDB refuses writes after one of them found no space, and a flow whose write failed is dead. So the last
part of the disk is a reserve that nothing new may touch: below the low mark publishes are refused, readiness
is false, `route` and `record` read nothing and no attempt starts. What is in flight ends and is written, into
the reserve. Reads go on. Above the high mark everything goes on by itself; the two marks lie apart, so that
a disk that hovers around one of them does not switch on and off.

Somebody else may still write the last byte in an instant. A part that dies of that does not end the process:
the parts that read live on, and a start on a full disk would only fail. The guard keeps the death for itself,
and hands it on when there is room (a file of a megabyte can be written and synced): then the process ends,
and starting again is the one procedure that heals everything. The local log needs no start: RocksDB heals
itself within 5 s of room when a write met a full disk (tried: nothing acknowledged was lost, also after a
kill).

Rejected: a ballast file that is deleted when the disk is full (whoever filled the disk takes it as well);
only trying writes (it finds out when it is too late); ending the process at once (then nobody could read, and
a supervisor would start it again and again).

Source: statvfs(3); etcd's NOSPACE alarm, Kafka's and Elasticsearch's watermarks for the same idea.
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from schemas.errors import DiskFull, HooktideError, Unavailable

LOOK_S: Final = 0.25
CALM_S: Final = 2.0
"""How long there must be room before a death is handed on, and between two tries to write."""
SHARE_MAX: Final = 10
"""The low mark is at most a tenth of the file system, so that a small volume works."""
HYSTERESIS: Final = 4
"""The high mark lies a quarter above the low one."""
FILES_MIN: Final = 1_000
TRIAL_FILE: Final = "space.trial"
TRIAL_BYTES: Final = 1 << 20

OnDeath = Callable[[str, BaseException], None]
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_log = structlog.get_logger("hooktide.process")


class DiskSpace(NamedTuple):
    """What a file system has left for us.

    Attributes:
        total_files: 0 where the file system does not count them.
    """

    free_bytes: int
    total_bytes: int
    free_files: int = 0
    total_files: int = 0


class Marks(NamedTuple):
    """When there is too little: below `low`; when there is enough again: from `high` on. Bytes."""

    low: int
    high: int


def marks_of(free_bytes_min: int, total_bytes: int) -> Marks:
    """Returns the marks of a file system of this size."""
    low = min(free_bytes_min, total_bytes // SHARE_MAX)
    return Marks(low, low + low // HYSTERESIS)


def is_short(space: DiskSpace, free_bytes_min: int, *, was_short: bool) -> bool:
    """Returns whether there is too little, with what was said before."""
    marks = marks_of(free_bytes_min, space.total_bytes)
    files_min = min(FILES_MIN, space.total_files // SHARE_MAX)
    if was_short:
        files_min += files_min // HYSTERESIS
    return space.free_bytes < (marks.high if was_short else marks.low) or space.free_files < files_min


def space_of(directory: Path) -> DiskSpace:
    """Returns the space of the file system that a directory lies on, as far as this user may take it."""
    found = os.statvfs(directory)
    return DiskSpace(
        found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, found.f_favail, found.f_files
    )


def try_to_write(directory: Path) -> None:
    """Writes a file of a megabyte, syncs it, and removes it.

    Raises:
        OSError: there is no room after all (a quota), or the disk says no.
    """
    trial = directory / TRIAL_FILE
    try:
        with trial.open("wb") as file:
            file.write(bytes(TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        trial.unlink(missing_ok=True)


def blamed_on_disk(error: Unavailable, directory: Path, free_bytes_min: int) -> HooktideError:
    """Returns why a start failed: the full disk when it is one, else the error itself."""
    there = next(one for one in (directory, *directory.absolute().parents) if one.exists())
    space = space_of(there)
    if not isinstance(error, DiskFull) and not is_short(space, free_bytes_min, was_short=False):
        return error
    return DiskFull(
        f"the disk of {directory} is full ({space.free_bytes >> 20} MiB are free): nothing is lost; make "
        f"room and start again. {error}"
    )


class DiskGuard:
    """Looks in a thread of its own; its word may be asked for by any thread.

    Args:
        directory: the data directory.
        free_bytes_min: the low mark, at most a tenth of the file system.
        on_death: takes a death that is not the disk's; and one that was, when there is room.
        look: at the file system.
        try_write: raises OSError when nothing can be written.
        look_s: between two looks, seconds.
        calm_s: how long there must be room before a death is handed on, seconds.
    """

    def __init__(
        self,
        directory: Path,
        free_bytes_min: int,
        on_death: OnDeath,
        *,
        look: Callable[[Path], DiskSpace] = space_of,
        try_write: Callable[[Path], None] = try_to_write,
        look_s: float = LOOK_S,
        calm_s: float = CALM_S,
    ) -> None:
        self._directory = directory
        self._free_bytes_min = free_bytes_min
        self._on_death = on_death
        self._look = look
        self._try_write = try_write
        self._look_s = look_s
        self._calm_s = calm_s
        self._is_short = False
        self._dead: tuple[str, BaseException] | None = None
        self._is_handed_on = False
        self._calm_since_s = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk-guard", daemon=True)
        self._look_once()

    @property
    def has_room(self) -> bool:
        """Whether new work may begin."""
        return not self._is_short and self._dead is None

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread. A death that waited for room is handed on, and so are those that come now."""
        self._closing.set()
        self._thread.join()
        self._hand_on()

    def take_death(self, part: str, error: BaseException) -> None:
        """Takes the death of a part: keeps it when the disk was the cause, else hands it on at once."""
        if self._closing.is_set() or not self._is_of_disk(error):
            self._on_death(part, error)
        elif self._dead is None:
            self._calm_since_s = time.monotonic()
            self._dead = part, error
            _log.critical("disk_full", died=part, error=str(error), waits_for="space", reads="go on")

    def _is_of_disk(self, error: BaseException) -> bool:
        if isinstance(error, Unavailable):
            # Something that could not be had while there was no space was not had for want of it.
            return isinstance(error, DiskFull) or self._is_short
        chain: BaseException | None = error
        seen: set[int] = set()
        while chain is not None and id(chain) not in seen:  # a flow's error has its wrapper as its context
            if isinstance(chain, OSError) and chain.errno in _NO_SPACE:
                return True
            seen.add(id(chain))
            chain = chain.__cause__ or chain.__context__
        return False

    def _run(self) -> None:
        while not self._closing.wait(self._look_s):
            self._look_once()
            if self._dead is not None and self._is_calm():
                _log.warning("disk_has_room_again", died=self._dead[0])
                self._hand_on()
                return

    def _hand_on(self) -> None:
        if self._dead is not None and not self._is_handed_on:
            self._is_handed_on = True
            self._on_death(*self._dead)

    def _look_once(self) -> None:
        try:
            space = self._look(self._directory)
        except OSError as error:
            _log.error("disk_not_seen", directory=str(self._directory), error=str(error))
            return
        was_short, self._is_short = (
            self._is_short,
            is_short(space, self._free_bytes_min, was_short=self._is_short),
        )
        if self._is_short and not was_short:
            _log.critical("disk_nearly_full", **self._words(space), intake="stopped", reads="go on")
        elif was_short and not self._is_short:
            _log.warning("disk_has_room", **self._words(space), intake="goes on")

    def _is_calm(self) -> bool:
        """Whether there has been room for a while, and can be written."""
        now_s = time.monotonic()
        if self._is_short:
            self._calm_since_s = now_s
            return False
        if now_s - self._calm_since_s < self._calm_s:
            return False
        try:
            self._try_write(self._directory)
        except OSError as error:
            _log.warning("disk_still_full", error=str(error))
            self._calm_since_s = now_s
            return False
        return True

    def _words(self, space: DiskSpace) -> dict[str, int]:
        marks = marks_of(self._free_bytes_min, space.total_bytes)
        return {
            "free_bytes": space.free_bytes,
            "free_bytes_min": marks.low,
            "goes_on_at_bytes": marks.high,
            "free_files": space.free_files,
        }
