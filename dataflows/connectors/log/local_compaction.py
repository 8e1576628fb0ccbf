"""Compaction of the local log: of each key only the last record stays, decided at the moment of appending.

An index (key -> offset of its newest record) tells which record a new one replaces; the replaced row is
deleted in the batch that writes the new one, so the topic is always compact and a view is rebuilt from what
counts only. A tombstone stays readable for a day, so that a view which was away for less learns of the
deletion; a list of tombstones by age finds the old ones without looking at the rest.

Rejected: compacting in the background as Kafka does: it needs a cleaner with its own positions, and our
compacted topics (endpoints, tenants, keys, jobs) are written by people and short.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rocksdict import WriteBatch

from dataflows.connectors.log import local_database
from dataflows.connectors.log.local_database import Database
from dataflows.connectors.log.local_keys import (
    OFFSET_END,
    PartitionState,
    decode_grave,
    encode_grave,
    offset_of,
    pack_u64,
    record_key,
)
from dataflows.connectors.log.port import Entry

TOMBSTONE_MS = 24 * 3_600_000
"""How long a deletion stays readable. Kafka's `delete.retention.ms` has the same default."""
_GRAVES_PER_BATCH = 10_000


class Compaction:
    """Replaces the older records of one group commit's keys. Made per group; owned by the commit thread."""

    __slots__ = ("_batch", "_graves", "_index", "_latest", "_written")

    def __init__(self, database: Database, batch: WriteBatch) -> None:
        self._batch = batch
        self._index = database.families[local_database.LATEST]
        self._latest = database.handles[local_database.LATEST]
        self._graves = database.handles[local_database.GRAVES]
        self._written: dict[bytes, int] = {}

    def add(
        self, state: PartitionState, first_offset: int, timestamp_ms: int, entries: Sequence[Entry]
    ) -> None:
        """Puts the index rows of new records into the batch, and deletes the records that they replace."""
        names = [state.prefix + (key or b"") for key, _ in entries]
        stored: list[bytes | None] = self._index.get(names)  # type: ignore[assignment,arg-type]
        for place, (name, entry, older) in enumerate(zip(names, entries, stored, strict=True)):
            assert entry.key is not None, f"{state.name} is compacted: a record needs a key"
            offset = first_offset + place
            replaced = self._written.get(name, -1)
            if replaced < 0 and older is not None:
                replaced = int.from_bytes(older, "big")
            if replaced >= 0:
                self._batch.delete(record_key(state.prefix, replaced))
            self._written[name] = offset
            self._batch.put(name, pack_u64(offset), self._latest)
            if entry.value is None:
                grave = encode_grave(timestamp_ms, entry.key)
                self._batch.put(record_key(state.prefix, offset), grave, self._graves)


class Grave(NamedTuple):
    """A tombstone that is old enough to be dropped."""

    offset: int
    key: bytes


def old_graves(database: Database, state: PartitionState, before_ms: int) -> list[Grave]:
    """Returns the oldest tombstones of a partition taken before `before_ms`, a bounded number of them."""
    found: list[Grave] = []
    bounds = record_key(state.prefix, 0), record_key(state.prefix, OFFSET_END)
    for row_key, raw in database.scan(*bounds, local_database.GRAVES):
        taken_ms, key = decode_grave(raw)
        if taken_ms >= before_ms or len(found) == _GRAVES_PER_BATCH:
            break
        found.append(Grave(offset_of(row_key), key))
    return found


def drop_graves(
    database: Database, batch: WriteBatch, state: PartitionState, graves: Sequence[Grave]
) -> None:
    """Deletes tombstones with their index rows. Called on the commit thread, which alone moves the index.

    A key that was written again since keeps its index row; its tombstone row is gone already.
    """
    index = database.families[local_database.LATEST]
    for grave in graves:
        name = state.prefix + grave.key
        batch.delete(record_key(state.prefix, grave.offset), database.handles[local_database.GRAVES])
        if index.get(name) == pack_u64(grave.offset):
            batch.delete(name, database.handles[local_database.LATEST])
            batch.delete(record_key(state.prefix, grave.offset))
