"""The data directory: one process's everything on disk, opened by one process at a time.

It holds a lock (`lock`, flock for life, with the holder's pid for the error message), a format file
(`format.json`: what was fixed when the directory was made) and the admin key (`admin.key`). Stores make their
own sub-directories.

A directory that holds something else is refused rather than filled: `--data ~` must not turn a home directory
into ours. What a mounted volume brings along (`lost+found`) and the keys a person may place before the first
start are allowed.

Rejected: a pid file as the lock (a crash leaves it behind, and pids return); relying on the stores' own locks
(each would be found taken one after the other, after some were already opened).
"""

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from schemas.errors import DamagedStore, DirectoryInUse, FormatMismatch, StoreUnavailable

FORMAT_VERSION = 1
LOCK_FILE = "lock"
FORMAT_FILE = "format.json"
ADMIN_KEY_FILE = "admin.key"
MASTER_KEY_FILE = "master.key"
SHARDS_DIRECTORY = "shards"
_MAY_BE_THERE_BEFORE = {LOCK_FILE, ADMIN_KEY_FILE, MASTER_KEY_FILE, "lost+found"}
_UNFINISHED = ".unfinished"
_ADMIN_KEY_CHARACTERS = 3 + 43


def shard_directory(data: Path, shard: int) -> Path:
    """Returns where a shard's store lies in a data directory."""
    return data / SHARDS_DIRECTORY / f"{shard:04d}"


class DirectoryFormat(msgspec.Struct, frozen=True):
    """What was fixed when the directory was made."""

    version: int
    created_at_ms: int
    shards: int
    events_partitions: int


class DataDirectory:
    """An open, locked data directory. Keep it until the process ends: closing gives the lock away."""

    def __init__(self, path: Path, lock: int, directory_format: DirectoryFormat) -> None:
        self.path = path
        self.format = directory_format
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, shards: int, events_partitions: int, now_ms: int) -> Self:
        """Opens the directory, or makes it (0700).

        Args:
            path: need not exist; its parents are made too.
            shards: partitions of `deliveries`; must equal what the directory was made with.
            events_partitions: partitions of `events`; likewise.
            now_ms: written as the creation time.

        Raises:
            DirectoryInUse: another process has it open; the message names its pid.
            FormatMismatch: other counts, a newer format, or a directory of something else.
            DamagedStore: the format file does not decode.
            StoreUnavailable: it cannot be made or written.
        """
        wanted = DirectoryFormat(FORMAT_VERSION, now_ms, shards, events_partitions)
        # ClickHouse changes the process's working directory while it starts, in a thread beside the others.
        path = path.absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(path.parent)
            _refuse_foreign(path)
            lock = _lock(path)
        except OSError as error:
            raise StoreUnavailable(
                f"the data directory {path} cannot be used: {error.strerror or error}; name another with "
                f"--data"
            ) from error
        try:
            stored = _read_or_make_format(path, wanted)
            with suppress(OSError):  # a volume whose modes cannot be changed still serves
                path.chmod(0o700)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock, stored)

    def close(self) -> None:
        """Gives the lock away. A second call does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def admin_key(directory: Path) -> tuple[str, bool]:
    """Returns the admin key and whether it was made just now (0600; to be shown to the terminal once).

    Raises:
        DamagedStore: the file is there, but holds no key.
        StoreUnavailable: it cannot be read or made.
    """
    file = directory / ADMIN_KEY_FILE
    try:
        stored = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        made = "hk_" + secrets.token_urlsafe(32)
        create_private_file(file, made.encode() + b"\n")
        return made, True
    except (OSError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"the admin key {file} cannot be read: {error}") from error
    if not stored.startswith("hk_") or len(stored) < _ADMIN_KEY_CHARACTERS or not stored.isprintable():
        raise DamagedStore(
            f"{file} holds no admin key (`hk_` and 43 characters); delete it and a new one is made"
        )
    return stored, False


def create_private_file(file: Path, content: bytes) -> None:
    """Makes a file (0600) that is there whole or not at all, also after a power cut.

    Raises:
        StoreUnavailable: it cannot be made.
    """
    unfinished = file.with_name(file.name + _UNFINISHED)
    try:
        with suppress(FileNotFoundError):  # left behind by a crash
            unfinished.unlink()
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        unfinished.replace(file)
        sync_directory(file.parent)
    except OSError as error:
        raise StoreUnavailable(f"{file} cannot be made: {error.strerror or error}") from error


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory survive a power cut; a file's own fsync does not do that.

    Raises:
        OSError: the directory cannot be opened or synced.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_foreign(path: Path) -> None:
    if (path / FORMAT_FILE).exists():
        return
    names = {entry.name for entry in path.iterdir() if not entry.name.endswith(_UNFINISHED)}
    foreign = sorted(names - _MAY_BE_THERE_BEFORE)
    if foreign:
        raise FormatMismatch(
            f"{path} is not a data directory of Hooktide, and it is not empty (it holds {foreign[0]}): "
            "name an empty or a new one with --data"
        )


def _lock(path: Path) -> int:
    descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise DirectoryInUse(
            f"the data directory {path} is in use by process {holder}; stop it, or name another with --data"
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read_or_make_format(path: Path, wanted: DirectoryFormat) -> DirectoryFormat:
    file = path / FORMAT_FILE
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        create_private_file(file, msgspec.json.encode(wanted) + b"\n")
        return wanted
    except OSError as error:
        raise StoreUnavailable(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        stored = msgspec.json.decode(raw, type=DirectoryFormat)
    except msgspec.MsgspecError as error:
        raise DamagedStore(
            f"{file} does not decode ({error}); restore it from a backup of the directory"
        ) from error
    if stored.version != FORMAT_VERSION:
        raise FormatMismatch(
            f"{path} has format {stored.version}, this program knows {FORMAT_VERSION}: use the version that "
            f"made it"
        )
    for name, made_with, asked in (
        ("log.shards", stored.shards, wanted.shards),
        ("log.events_partitions", stored.events_partitions, wanted.events_partitions),
    ):
        if made_with != asked:
            raise FormatMismatch(
                f"{path} was made with {name} = {made_with}, the settings say {asked}: set it back to "
                f"{made_with}, "
                "or start with another directory"
            )
    return stored
