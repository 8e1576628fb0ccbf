"""Looks at the disk: is there room in the data directory, can it be written, does fsync keep its word?

Nothing is made that stays: a missing data directory is judged by the directory that it would be made in.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.doctor.finding import Finding, failed, ok, warning

FREE_MB_MIN: Final = 200
FREE_MB_GOOD: Final = 2_048
FSYNC_MS_GOOD: Final = 20.0
_FSYNC_ROUNDS: Final = 5
_BYTES: Final = 4_096
_FORGETFUL: Final = frozenset({"tmpfs", "ramfs"})
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})


def look_at_directory(data: Path) -> Iterator[Finding]:
    """Yields what there is to say about the place of the data directory."""
    place = data.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        yield failed("data", f"{place} is no directory", "name another with --data")
        return
    try:
        fsync_ms = _fsync_ms(place)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        yield failed(
            "data",
            f"{place} cannot be written ({reason})",
            "give yourself the right, or name another with --data",
        )
        return
    yield ok("data", f"{data.absolute()}{'' if data.exists() else ', made at the first start'}")
    free_mb = shutil.disk_usage(place).free >> 20
    if free_mb < FREE_MB_MIN:
        yield failed(
            "disk", f"{free_mb:,} MB free", f"free {FREE_MB_MIN} MB, or name another place with --data"
        )
    elif free_mb < FREE_MB_GOOD:
        yield warning("disk", f"{free_mb:,} MB free", "the log keeps events for seven days: watch it")
    else:
        yield ok("disk", f"{free_mb:,} MB free")
    if fsync_ms > FSYNC_MS_GOOD:
        yield warning("fsync", f"takes {fsync_ms:.1f} ms", "each publish waits for one: use a local SSD")
    else:
        yield ok("fsync", f"takes {fsync_ms:.2f} ms")
    kind = file_system(place)
    if kind in _FORGETFUL:
        yield warning("file system", kind, "it is memory: a restart of the machine loses every event")
    elif kind in _REMOTE:
        yield warning(
            "file system", kind, "locks and fsync over a network are not to be relied on: use a local disk"
        )
    else:
        yield ok("file system", kind)


def file_system(place: Path, mounts: str | None = None) -> str:
    """Returns the kind of the file system that a directory is on.

    Args:
        mounts: the text of /proc/self/mounts; None: read.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "unknown"
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        fields = line.split(" ")
        point = fields[1].replace("\\040", " ")
        if place.is_relative_to(point) and len(point) >= len(best):  # a later mount lies over an earlier one
            best, kind = point, fields[2]
    return kind


def _fsync_ms(place: Path) -> float:
    """Returns how long the quickest of a few fsyncs took."""
    with tempfile.NamedTemporaryFile(dir=place, prefix=".hooktide-doctor-") as file:
        took = []
        for _ in range(_FSYNC_ROUNDS):
            file.write(b"\0" * _BYTES)
            file.flush()
            began_s = time.perf_counter()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began_s) * 1_000)
        return min(took)
