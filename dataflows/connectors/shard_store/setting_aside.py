"""Opens a shard's store; one that is damaged is moved aside, and an empty one takes its place.

Everything a shard's store holds came from the log and can come again, so damage there is no reason to refuse
to start: the directory is renamed to `<name>.damaged-<n>` beside it, for a person to look at, and reconcile
fills an empty one. Nothing is ever deleted here; a person deletes what was set aside, when it was looked at.

Only damage is treated so. A disk that says no, missing permissions, a directory that somebody has open or
that belongs to another shard would meet the new directory as well, or would be covered up by it.

An empty directory for a shard with history is refused elsewhere, because it may be a forgotten mount. So that
a kill at any moment between the rename and the new store's claim does not look like one, a note beside the
directory (`<name>.set-aside`) is durable before the rename, and stays until `Opened.settle`. While it is
there, every opening says what was set aside.

Rejected: telling it from the `.damaged-*` names alone (they stay for weeks, and would excuse a directory that
was lost for another reason); reusing the damaged store's id (two histories under one name).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from dataflows.connectors.data_directory import create_private_file, sync_directory
from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.rocks_options import StoreMemory
from schemas.errors import DamagedStore, StoreUnavailable

MANY_ASIDE: Final = 10
"""From here on the log line says that they take space; each is as large as a store was."""
_NOTE_SUFFIX = ".set-aside"
_ASIDE_MARK = ".damaged-"

_log = structlog.get_logger(__name__)


class Opened(NamedTuple):
    """An open store, and what stood in its place.

    Attributes:
        store: the shard's, perhaps empty.
        aside: where the damaged directory is now, when this store replaces one and nobody has called `settle`
            since; else None. The shard may then be claimed for this store without a person's word.
        reason: why it was set aside; empty when nothing was.
        note: the file that `settle` removes.
    """

    store: RocksStore
    aside: Path | None
    reason: str
    note: Path

    def settle(self) -> None:
        """Forgets that a store was replaced: to be called once the shard is claimed for the new one.

        Raises:
            StoreUnavailable: the note cannot be removed.
        """
        if self.aside is None:
            return
        try:
            self.note.unlink(missing_ok=True)
            sync_directory(self.note.parent)
        except OSError as error:
            raise StoreUnavailable(f"{self.note} cannot be removed: {error.strerror or error}") from error


class _Note(msgspec.Struct, frozen=True):
    """The note's content, which a person may read."""

    aside: str
    reason: str
    at_ms: int


def open_or_set_aside(
    directory: Path,
    *,
    shard: int,
    shard_count: int,
    memory: StoreMemory | None = None,
    now_ms: int,
    open_store: Callable[..., RocksStore] = RocksStore.open,
) -> Opened:
    """Opens a shard's directory, or makes it; a damaged one is set aside first.

    Whoever calls it holds the lock of the data directory around it: between finding the damage and the rename
    nobody else may open the directory.

    Args:
        directory: need not exist.
        shard: 0 <= shard < shard_count.
        shard_count: must be what the directory was made with.
        memory: what the shards of this process share.
        now_ms: milliseconds UTC, for the note.
        open_store: as `RocksStore.open`, for a process that is watched.

    Raises:
        DirectoryInUse: another process, or this one, has it open.
        FormatMismatch: it was made for another shard, another number of shards, or by a newer version.
        StoreUnavailable: the file system says no.
    """
    note = directory.with_name(directory.name + _NOTE_SUFFIX)
    try:
        store = open_store(directory, shard=shard, shard_count=shard_count, memory=memory)
    except DamagedStore as damage:
        _set_aside(directory, note, str(damage), now_ms)
        store = open_store(directory, shard=shard, shard_count=shard_count, memory=memory)
    try:
        noted = _read(note)
    except BaseException:
        store.close()
        raise
    if noted is None:
        return Opened(store, None, "", note)
    return Opened(store, directory.with_name(noted.aside), noted.reason, note)


def asides(directory: Path) -> list[Path]:
    """Returns what was set aside of a shard's directory so far, oldest first.

    Raises:
        OSError: the parent directory cannot be read.
    """
    prefix = directory.name + _ASIDE_MARK
    numbered = [
        (int(number), path)
        for path in directory.parent.iterdir()
        if path.name.startswith(prefix) and (number := path.name.removeprefix(prefix)).isdecimal()
    ]
    return [path for _, path in sorted(numbered)]


def _set_aside(directory: Path, note: Path, reason: str, now_ms: int) -> None:
    try:
        earlier = asides(directory)
        number = int(earlier[-1].name.rpartition("-")[2]) + 1 if earlier else 1
        aside = directory.with_name(f"{directory.name}{_ASIDE_MARK}{number}")
        create_private_file(note, msgspec.json.encode(_Note(aside.name, reason, now_ms)) + b"\n")
        directory.rename(aside)
        sync_directory(directory.parent)
    except OSError as error:
        raise StoreUnavailable(
            f"the damaged shard store {directory} cannot be moved aside: {error.strerror or error}"
        ) from error
    advice = "look at it, then delete it"
    if len(earlier) + 1 >= MANY_ASIDE:
        advice = f"{len(earlier) + 1} are there and take space; look at the disk, then delete them"
    _log.error(
        "shard_store_set_aside", directory=str(directory), aside=str(aside), reason=reason, advice=advice
    )


def _read(note: Path) -> _Note | None:
    try:
        raw = note.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnavailable(f"{note} cannot be read: {error.strerror or error}") from error
    try:
        return msgspec.json.decode(raw, type=_Note)
    except msgspec.MsgspecError:  # its being there is what counts
        return _Note(note.name.removesuffix(_NOTE_SUFFIX), "the note does not decode", 0)
