"""The store port of a shard: ordered column families with one atomic batch over all of them.

It is deliberately small (bytes in, bytes out), so that an implementation is a page and one conformance suite
can exhaust it; what the bytes mean stands in `schemas/wire/store_keys.py` and `schemas/wire/store_rows.py`.

The port is synchronous: a call costs microseconds, and the engine may rely on reading its own writes at once.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Protocol


class Family(StrEnum):
    """The fixed column families. `seen` generations come on top, by number."""

    PENDING = "pending"
    READY = "ready"
    DUE = "due"
    OUTBOX = "outbox"
    ENDPOINTS = "endpoints"
    META = "meta"


class Batch(Protocol):
    """Changes that become visible and durable together, or not at all."""

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        """Sets a row."""

    def delete(self, family: Family, key: bytes) -> None:
        """Deletes a row; one that is not there is no error."""

    def delete_range(self, family: Family, start: bytes, end: bytes) -> None:
        """Deletes the rows with start <= key < end."""

    def put_seen(self, generation: int, key: bytes, value: bytes) -> None:
        """Sets a row of a `seen` generation that was added before."""

    def delete_seen(self, generation: int, key: bytes) -> None:
        """Deletes a row of a `seen` generation."""


class ShardStore(Protocol):
    """One shard's durable state. Used by one thread at a time, except `sync`, which any thread may call."""

    @property
    def store_id(self) -> str:
        """Names this directory for ever (made when it was created)."""

    def batch(self) -> Batch:
        """Returns an empty batch."""

    def write(self, batch: Batch) -> None:
        """Applies a batch atomically. A process kill loses nothing written; a power cut what was not synced.

        Raises:
            StoreUnavailable: nothing was applied.
        """

    def get(self, family: Family, key: bytes) -> bytes | None:
        """Returns a row's value."""

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the rows' values in the order of the keys."""

    def scan(self, family: Family, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns up to `limit` rows with start <= key < end, in key order."""

    def seek(self, family: Family, start: bytes) -> bytes | None:
        """Returns the first key at or after `start`, or None; for skipping over prefixes."""

    def generations(self) -> list[int]:
        """Returns the numbers of the `seen` generations, newest (highest) first."""

    def add_generation(self, number: int) -> None:
        """Makes a new generation; one that exists is no error."""

    def drop_generation(self, number: int) -> None:
        """Drops a whole generation at once."""

    def get_seen(self, generation: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the rows' values in one generation."""

    def scan_all(self, family: Family) -> Iterator[tuple[bytes, bytes]]:
        """Yields every row of a family in key order (start-up and tests)."""

    def sync(self) -> None:
        """Makes everything written so far survive a power cut."""

    def close(self) -> None:
        """Syncs and frees everything."""
