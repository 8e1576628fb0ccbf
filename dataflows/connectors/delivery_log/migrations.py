"""The schema of the delivery log: numbered SQL files, each applied once, in order, with its checksum kept.

A file is one statement that may be run twice (`IF NOT EXISTS`), because a process can die between the
statement and its record. A file that was applied is never edited: its checksum refuses, since a table that
differs from its file would go unnoticed until a query fails. Names in the files are unqualified; the
connection's database holds them.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from schemas.errors import FormatMismatch

SQL_FOLDER = Path(__file__).parent / "sql"
LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    name       String,
    checksum   String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree ORDER BY name
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
"""
APPLIED = "SELECT name, any(checksum) AS checksum FROM schema_migrations GROUP BY name ORDER BY name"

Execute = Callable[[str], None]
Query = Callable[[str], list[dict[str, Any]]]
Note = Callable[[str, str], None]


class Migration(NamedTuple):
    """One numbered file."""

    name: str
    checksum: str
    sql: str


def migrations(folder: Path = SQL_FOLDER) -> list[Migration]:
    """Returns the files `NNNN_*.sql` of a folder in the order of their numbers."""
    found = []
    for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql")):
        sql = path.read_text(encoding="utf-8")
        found.append(Migration(path.stem, sha256(sql.encode()).hexdigest(), sql))
    numbers = [migration.name[:4] for migration in found]
    assert len(set(numbers)) == len(numbers), f"two migrations share a number: {numbers}"
    return found


def apply(wanted: list[Migration], execute: Execute, query: Query, note: Note) -> list[str]:
    """Applies what is missing and returns the names.

    Args:
        wanted: in order.
        execute: runs a statement.
        query: runs a SELECT.
        note: records (name, checksum) as applied.

    Raises:
        FormatMismatch: an applied file was changed, or the store knows a migration that we do not (a newer
            version of Hooktide made it).
    """
    execute(LEDGER)
    applied = {row["name"]: row["checksum"] for row in query(APPLIED)}
    known = {migration.name: migration.checksum for migration in wanted}
    for name, checksum in applied.items():
        if name not in known:
            raise FormatMismatch(
                f"the delivery log has migration {name}, which a newer Hooktide made; upgrade"
            )
        if known[name] != checksum:
            raise FormatMismatch(
                f"migration {name} was changed after it was applied; restore it and add a new one"
            )
    missing = [migration for migration in wanted if migration.name not in applied]
    for migration in missing:
        execute(migration.sql)
        note(migration.name, migration.checksum)
    return [migration.name for migration in missing]
