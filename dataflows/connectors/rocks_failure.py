"""What an exception of rocksdict means for us, decided once for every store that is made of RocksDB.

rocksdict 0.3.29 raises bare `Exception` with RocksDB's own words, so the words are all there is to go by.
Only that bare class is translated, and OSError (it keeps a small file of its own beside RocksDB's): the other
subclasses (a closed database, a key that is not bytes) are mistakes of ours.

The order of the questions matters. RocksDB calls a missing table file at opening `Corruption: ... IO error:
No such file`, and a missing MANIFEST only `IO error: No such file`; both are damage. A full disk is an I/O
error too, but nothing is broken: it can be tried again when there is room.
"""

from pathlib import Path

from schemas.errors import DamagedStore, DirectoryInUse, HooktideError, StoreUnavailable

_LOCKED = ("lock hold by current process", "While lock file")
_DAMAGED = ("Corruption", "No such file or directory")


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
        return StoreUnavailable(f"{doing} in {directory}: {error}")
    if type(error) is not Exception:
        raise error
    words = str(error)
    if any(mark in words for mark in _LOCKED):
        return DirectoryInUse(f"{doing} in {directory}: another process has it open; stop that one first")
    if any(mark in words for mark in _DAMAGED):
        return DamagedStore(
            f"{doing} in {directory}: it is damaged ({words}). Move the directory aside; what it held comes "
            f"back from the log where the log has a second copy"
        )
    return StoreUnavailable(f"{doing} in {directory}: {words}. Check free space, permissions and the disk")
