"""A real file system of a few megabytes, to be filled: a tmpfs, mounted by root or by sudo."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PIECE = 1 << 20
FILLER = "filler"


class SmallVolume:
    """A mounted volume.

    Args:
        directory: where it is mounted.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._filler = directory / FILLER

    @property
    def free_bytes(self) -> int:
        """What is left."""
        return shutil.disk_usage(self.directory).free

    @property
    def total_bytes(self) -> int:
        """What there was when it was empty."""
        return shutil.disk_usage(self.directory).total

    def take(self, count: int) -> None:
        """Takes some of what is left."""
        with self._filler.open("ab") as file:
            file.write(bytes(count))

    def take_all(self) -> None:
        """Takes the last byte, at once."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (PIECE, 4_096):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue

    def give_back(self) -> None:
        """Frees everything that was taken."""
        self._filler.unlink(missing_ok=True)


def can_mount(directory: Path) -> bool:
    """Returns whether a volume can be mounted here: by a trial."""
    try:
        with mounted(directory, 1 << 20):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def mounted(directory: Path, size_bytes: int) -> Iterator[SmallVolume]:
    """Mounts a volume of this size on a directory, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes},mode=0700,uid={os.getuid()},gid={os.getgid()}"
    _as_root("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory))
    try:
        yield SmallVolume(directory)
    finally:
        _as_root("umount", "--lazy", str(directory))


def _as_root(*command: str) -> None:
    sudo: Sequence[str] = () if os.getuid() == 0 else ("sudo", "-n")
    subprocess.run([*sudo, *command], check=True, capture_output=True)
