"""The `DeliveryLog` port: columnar inserts and parameterised queries, ClickHouse embedded or a server."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class DeliveryLog(Protocol):
    """The store of events, deliveries, attempts, transitions and dead letters. Thread-safe."""

    def migrate(self) -> list[str]:
        """Applies the numbered SQL files that are missing, in order; returns their names. Idempotent."""

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Inserts a block of rows; durable when it returns.

        Values: str, bytes (stored as they are), int, float, bool, None, list of these; times are integer
        milliseconds UTC for `DateTime64(3)` columns.

        Raises:
            StoreUnavailable: not known to be inserted (whole months of it may be); trying again may repeat.
            ValueError: a value does not fit its column, or there is no such table or column; nothing was
                inserted.
        """

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Runs a SELECT with `{name:Type}` parameters; returns one dict a row, 64-bit integers as int.

        Times go in and come back as integer milliseconds UTC. A String comes back as text: for a column of
        bytes select `hex(column)`.

        Raises:
            StoreUnavailable: the store cannot answer now.
            ValueError: the statement is wrong, would write, or its parameters do not fit.
        """

    def close(self) -> None:
        """Frees everything; the directory can be opened again."""
