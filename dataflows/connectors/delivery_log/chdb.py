"""The delivery log inside the process: ClickHouse as a library (`chdb`), over one directory.

What the library demands and how it is met:

- One process per directory, one directory per process. Both refusals are reported as `DirectoryInUse`.
- A connection serves one query at a time, so there is one for inserts and a few for reads; queries release
  the GIL.
- Statements carry no binary data: their text is cut at an empty line, so any body with two newlines would
  be. A block goes through an anonymous file, `INSERT ... FROM INFILE`, in the Native format (see `native`).
- It must stay small beside everything else in the process: two threads a query, small caches, one merge at
  a time.
- Nothing is asynchronous: an insert is a part on disk, synced, when the call returns (`fsync_after_insert`
  in the SQL files, and its name by us), so neither a kill nor a power cut takes back what let the log's
  position be committed.

Rejected: `send_insert` (not in the lite build, which is 360 MB smaller), inline TSV (three times the CPU).
"""

import fcntl
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chdb.session import Session

from dataflows.connectors.data_directory import sync_directory
from dataflows.connectors.delivery_log import migrations
from dataflows.connectors.delivery_log.native import Column, column, encode_block
from dataflows.connectors.delivery_log.parameters import parameter_texts
from dataflows.connectors.delivery_log.results import rows_of
from dataflows.connectors.delivery_log.session_pool import SessionPool
from schemas.errors import BadSettings, DirectoryInUse, HooktideError, StoreUnavailable

READERS = 3
_READ_WAIT_S = 10.0
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CODE = re.compile(r"Code: (\d+)")

# Start-up arguments of the engine. The defaults are a server's: 5 GB of mark cache and half the machine's
# memory.
_ENGINE = {
    "mark_cache_size": 32 << 20,
    "primary_index_cache_size": 32 << 20,
    "index_mark_cache_size": 16 << 20,
    "query_condition_cache_size": 4 << 20,
    "compiled_expression_cache_size": 4 << 20,
    "background_pool_size": 1,
}
# The profilers would interrupt every system call of the process by a signal per second and thread.
_BOTH = (
    "session_timezone='UTC', max_threads=2, "
    "query_profiler_real_time_period_ns=0, query_profiler_cpu_time_period_ns=0"
)
_WRITE = (
    f"SET {_BOTH}, async_insert=0, max_insert_threads=1, input_format_parallel_parsing=0, "
    "max_partitions_per_insert_block=0"
)
_READ = (
    f"SET {_BOTH}, output_format_json_quote_64bit_integers=0, date_time_output_format='iso', "
    f"max_execution_time=5, max_memory_usage={256 << 20}, readonly=2"
)
_COLUMNS = (
    "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table:String}"
)
# Codes of ClickHouse's ErrorCodes.cpp that blame the statement: a programmer's error, not the store's.
_WRONG_STATEMENT = frozenset({16, 36, 42, 43, 46, 47, 53, 60, 62, 81, 164, 386, 456, 457})


class ChdbLog:
    """The `DeliveryLog` port over an embedded ClickHouse.

    Args:
        directory: made when it is missing.
        database: made when it is missing; tests use names of their own in one directory.

    Raises:
        DirectoryInUse: another process has the directory open, or this one has another directory open.
        StoreUnavailable: the directory cannot be made, written or read.
        BadSettings: the path has a character that the library takes as its own.
    """

    def __init__(self, directory: Path, database: str = "hooktide") -> None:
        self._directory = directory.resolve()
        self._database = _checked(database)
        self._columns: dict[str, dict[str, str]] = {}
        self._insert_lock = threading.Lock()
        self._is_closed = False
        self._writer = self._open(_WRITE)
        self._readers = SessionPool(lambda: self._open(_READ), READERS, _READ_WAIT_S)
        self._block_fd = _anonymous_file()

    def migrate(self) -> list[str]:
        """Applies the missing files of `sql/`, in order, and returns their names."""
        with self._insert_lock:
            self._columns.clear()
        return migrations.apply(migrations.migrations(), self._execute, self.query, self._note)

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Inserts a block; one part per month of its rows, each of them whole or absent.

        Raises:
            StoreUnavailable: not known to be inserted; rows of another month may have been.
            ValueError: a value does not fit its column, or there is no such table or column.
        """
        if not rows:
            return
        with self._insert_lock:
            self._refuse_closed()
            block = encode_block(self._encoders(table, columns), rows)
            names = ", ".join(f"`{name}`" for name in columns)
            _rewrite(self._block_fd, block)
            try:
                self._run(
                    f"INSERT INTO `{table}` ({names}) FROM INFILE '/dev/fd/{self._block_fd}' FORMAT Native"
                )
                self._sync_names(table)
            finally:
                os.ftruncate(self._block_fd, 0)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Runs a SELECT, for at most 5 s and 256 MB; times come back as integer milliseconds UTC.

        A String comes back as text; for a column of bytes select `hex(column)`.

        Raises:
            StoreUnavailable: it took too long, needs too much, or the store is closed.
            ValueError: the statement is wrong, would write, or its parameters do not fit.
        """
        texts = parameter_texts(sql, parameters or {})
        with _translated(sql), self._readers.session() as session:
            answer = session.query(sql, "JSONCompact", params=texts).bytes()
        return rows_of(answer)

    def close(self) -> None:
        """Ends every connection; running queries are waited for. The directory can be opened again.

        Raises:
            StoreUnavailable: a query or an insert does not end; leave the process then.
        """
        if not self._insert_lock.acquire(timeout=_READ_WAIT_S):
            raise StoreUnavailable(f"the delivery log {self._directory} is not closed: an insert hangs")
        try:
            if self._is_closed:
                return
            self._is_closed = True
            self._readers.close()
            self._writer.close()
            os.close(self._block_fd)
        finally:
            self._insert_lock.release()

    def _open(self, settings: str) -> Session:
        if any(letter in str(self._directory) for letter in "?&#%"):
            raise BadSettings(
                f"the path {self._directory} has one of ? & # %: chdb cannot take it; choose another"
            )
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"the directory {self._directory} cannot be made: {error}") from error
        arguments = "&".join(f"{name}={value}" for name, value in _ENGINE.items())
        try:
            session = Session(f"{self._directory}?{arguments}")
        except RuntimeError as error:
            raise self._refusal(error) from error
        with _translated(settings):
            session.query(f"CREATE DATABASE IF NOT EXISTS `{self._database}`")
            session.query(f"USE `{self._database}`")
            session.query(settings)
        return session

    def _refusal(self, error: RuntimeError) -> HooktideError:
        if "already initialized with path" in str(error):
            return DirectoryInUse(
                f"this process has another delivery log open than {self._directory}; chdb takes one a process"
            )
        if _is_locked(self._directory / "status"):
            return DirectoryInUse(
                f"another process has the delivery log {self._directory} open; stop it first"
            )
        # The engine has written its reason to stderr; its exception does not carry it.
        return StoreUnavailable(
            f"the delivery log {self._directory} cannot be opened, see above: {_first_line(error)}"
        )

    def _encoders(self, table: str, columns: Sequence[str]) -> list[Column]:
        types = self._columns.get(_checked(table))
        if types is None:
            found = self.query(_COLUMNS, {"table": table})
            types = {row["name"]: row["type"] for row in found}
        if missing := [name for name in columns if name not in types]:
            raise ValueError(f"table {table} has no column {', '.join(missing)}: was migrate() run?")
        self._columns[table] = types
        return [column(name, types[name]) for name in columns]

    def _execute(self, sql: str) -> None:
        with self._insert_lock:
            self._run(sql)

    def _note(self, name: str, checksum: str) -> None:
        self.insert("schema_migrations", ("name", "checksum"), [(name, checksum)])

    def _sync_names(self, table: str) -> None:
        """Makes the new part's name durable.

        ClickHouse syncs the part's files and the part's directory, and renames it then without syncing the
        table's directory (seen in its system calls): some file systems would forget the name.
        """
        names = self._directory / "data" / self._database / table
        try:
            sync_directory(names)
        except OSError as error:
            raise StoreUnavailable(
                f"the delivery log's directory {names} cannot be synced: {error}"
            ) from error

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise StoreUnavailable(f"the delivery log {self._directory} is closed")

    def _run(self, sql: str) -> None:
        self._refuse_closed()
        try:
            with _translated(sql):
                self._writer.query(sql)
        except HooktideError:
            self._writer.close()  # as in `session_pool`: what failed is not used again
            self._writer = self._open(_WRITE)
            raise


@contextmanager
def _translated(sql: str) -> Iterator[None]:
    """Turns the library's one exception into ours, by ClickHouse's error code."""
    try:
        yield
    except RuntimeError as error:
        code = _CODE.search(str(error))
        message = f"{_first_line(error)} (in: {' '.join(sql.split())[:120]})"
        if code and int(code[1]) in _WRONG_STATEMENT:
            raise ValueError(message) from error
        raise StoreUnavailable(message) from error


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a table or database")
    return name


def _first_line(error: RuntimeError) -> str:
    return str(error).partition("\n")[0][:500]


def _is_locked(path: Path) -> bool:
    """Whether another process holds ClickHouse's own lock on its status file."""
    try:
        with path.open("rb") as status:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _anonymous_file() -> int:
    """Returns a descriptor of memory (Linux) or of a nameless temporary file; it dies with the process."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("hooktide-insert")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _rewrite(descriptor: int, block: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
