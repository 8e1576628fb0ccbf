"""Which log belongs to a data directory: its id, kept beside it, so that a lost log is noticed.

The local log has no second copy. Without this file a log directory that was deleted, or whose disk was not
mounted, would simply be made again, empty: everything accepted would be gone, and nobody would be told. The
shards' directories would notice, but not when they are gone as well.

A log that is there, but older than the shards' state, is found where the shards start.
"""

from pathlib import Path
from typing import Final

from dataflows.connectors.data_directory import create_private_file
from schemas.errors import FormatMismatch, StoreUnavailable

LOG_DIRECTORY: Final = "log"
LOG_ID_FILE: Final = "log.id"
_ADVICE: Final = (
    "What was accepted and not delivered yet stood in it, and there is no second copy: put it back, or "
    "restore the whole data directory from a backup. To begin anew without it, name an empty directory with "
    "--data"
)


def refuse_lost_log(data: Path) -> None:
    """Looks before the log is opened, which would make a new one.

    Raises:
        FormatMismatch: this data directory had a log, and it is not there.
        StoreUnavailable: the file system says no.
    """
    known = _read(data)
    if not known:
        return
    log = data / LOG_DIRECTORY
    try:
        is_there = log.is_dir() and any(log.iterdir())
    except OSError as error:
        raise StoreUnavailable(f"the log {log} cannot be read: {error.strerror or error}") from error
    if not is_there:
        raise FormatMismatch(f"the log {log} ({known}) is gone: the directory is missing or empty. {_ADVICE}")


def keep_log_id(data: Path, cluster_id: str) -> None:
    """Notes the id of the log that was opened, or compares it with the note.

    Raises:
        FormatMismatch: the log is another one than this data directory had.
        StoreUnavailable: the file system says no.
    """
    known = _read(data)
    if not known:
        create_private_file(data / LOG_ID_FILE, cluster_id.encode() + b"\n")
    elif known != cluster_id:
        raise FormatMismatch(
            f"the log {data / LOG_DIRECTORY} is {cluster_id}, but this data directory belongs to the log "
            f"{known}: it was replaced. {_ADVICE}"
        )


def _read(data: Path) -> str:
    """Returns the id that was noted; empty when none was, as in a new directory."""
    try:
        return (data / LOG_ID_FILE).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StoreUnavailable(f"{data / LOG_ID_FILE} cannot be read: {error.strerror or error}") from error
