"""What an exception of rocksdict means for us, decided once for every store that is made of RocksDB.

rocksdict 0.3.29 raises bare `Exception` with RocksDB's own words, so the words are all there is to go by.
Only that bare class is translated, and OSError (it keeps a small file of its own beside RocksDB's): the other
subclasses (a closed database, a key that is not bytes) are mistakes of ours.

What the file system said decides, not RocksDB's name for it. RocksDB calls a table file that it cannot stat
`Corruption: ... IO error: ...`, and a missing MANIFEST only `IO error: No such file`. A file that is gone is
damage; a file that the system would not show (a bad disk, no permission, too many open files) or a full disk
is not: nothing may be set aside because a cable is loose.
"""

import errno
import os
from pathlib import Path

from schemas.errors import DamagedStore, DirectoryInUse, DiskFull, HooktideError, StoreUnavailable

_LOCKED = ("lock hold by current process", "While lock file")
_IO_ERROR = "IO error"
_GONE = "No such file or directory"
_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def translated(error: Exception, doing: str, directory: Path) -> HooktideError:
    """Returns the error of ours that an exception of rocksdict stands for.

    Args:
        error: what rocksdict raised.
        doing: what was tried, as a participle: "opening the shard store".
        directory: where.

    Raises:
        Exception: the error itself, when it is not RocksDB's but a mistake of ours.
    """
    if isinstance(error, OSError):
        failure = DiskFull if is_disk_full(str(error)) else StoreUnavailable
        return failure(f"{doing} in {directory}: {error}")
    if type(error) is not Exception:
        raise error
    words = str(error)
    if any(mark in words for mark in _LOCKED):
        return DirectoryInUse(f"{doing} in {directory}: another process has it open; stop that one first")
    if is_damage(words):
        return DamagedStore(
            f"{doing} in {directory}: it is damaged ({words}). Move the directory aside; what it held comes "
            f"back from the log where the log has a second copy"
        )
    if is_disk_full(words):
        return DiskFull(f"{doing} in {directory}: {words}. It goes on when there is space again")
    return StoreUnavailable(f"{doing} in {directory}: {words}. Check free space, permissions and the disk")


def is_disk_full(words: str) -> bool:
    """Returns whether an error's words tell of a file system, or a quota, without space."""
    return any(mark in words for mark in _FULL)


def is_damage(words: str) -> bool:
    """Returns whether RocksDB's words tell of damage, and not of a file system that says no."""
    said = words.split(_IO_ERROR)[1:]
    if any(_GONE not in part for part in said):
        return False
    return bool(said) or "Corruption" in words
