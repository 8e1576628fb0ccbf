"""Compaction of the local log: of each key only the last record stays.

An index (key -> offset of its newest record) tells at the moment of appending which record a new one
replaces. Two lists by age, written in the same batch, say what may be dropped later: replaced records after a
minute, tombstones after a day (a view that was away for less learns of the deletion). Dropping takes rows
from the front of the lists and never looks at the rest.

Replaced records wait a minute for the sake of readers. Somebody asks for the end, and then waits until a view
has read up to it. If the old record of a key vanished between the two, and the new one stood above that end,
the view would say "complete" without the key. Kafka's `min.compaction.lag.ms` exists for the same reason.

Rejected: deleting the old record in the batch of the new one (the race above); finding what is old by
scanning, as Kafka's cleaner does.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from rocksdict import WriteBatch

from dataflows.connectors.log import local_database
from dataflows.connectors.log.local_database import Database
from dataflows.connectors.log.local_keys import (
    OFFSET_END,
    PartitionState,
    decode_grave,
    decode_record,
    encode_grave,
    grave_key,
    pack_u64,
    record_key,
)
from dataflows.connectors.log.port import Entry

REPLACED_MS = 60_000
"""How long a replaced record stays readable; longer than anybody waits for a view."""
TOMBSTONE_MS = 24 * 3_600_000
"""How long a deletion stays readable. Kafka's `delete.retention.ms` has the same default."""
_GRAVES_PER_BATCH = 2_000  # about 5 ms of the commit thread, during which appends wait


class GraveKind(IntEnum):
    """Why a row is to be dropped; a list for each, because the two wait differently."""

    REPLACED = 0
    TOMBSTONE = 1


class Grave(NamedTuple):
    """A row of a list.

    Attributes:
        row_key: of the list's own row.
        rest: the replaced record's offset (8 bytes) and key, or the tombstone's key.
        offset: of the record that made the row: the replacing one, or the tombstone itself.
    """

    row_key: bytes
    rest: bytes
    offset: int


class Compaction:
    """Notes which records one group commit replaces. Made per group; owned by the commit thread."""

    __slots__ = ("_batch", "_graves", "_index", "_latest", "_written")

    def __init__(self, database: Database, batch: WriteBatch) -> None:
        self._batch = batch
        self._index = database.families[local_database.LATEST]
        self._latest = database.handles[local_database.LATEST]
        self._graves = database.handles[local_database.GRAVES]
        self._written: dict[bytes, bytes] = {}

    def add(
        self, state: PartitionState, first_offset: int, timestamp_ms: int, entries: Sequence[Entry]
    ) -> None:
        """Puts the index rows of new records into the batch, and the list rows of what they replace."""
        names = [state.prefix + (key or b"") for key, _ in entries]
        stored: list[bytes | None] = self._index.get(names)  # type: ignore[assignment,arg-type]
        put, prefix, time = self._batch.put, state.prefix, timestamp_ms
        for offset, (name, entry, older) in enumerate(zip(names, entries, stored, strict=True), first_offset):
            assert entry.key is not None, f"{state.name} is compacted: a record needs a key"
            replaced = self._written.get(name, older)
            if replaced is not None:
                rest = replaced + entry.key
                put(grave_key(prefix, GraveKind.REPLACED, offset), encode_grave(time, rest), self._graves)
            if entry.value is None:
                put(
                    grave_key(prefix, GraveKind.TOMBSTONE, offset),
                    encode_grave(time, entry.key),
                    self._graves,
                )
            self._written[name] = packed = pack_u64(offset)
            put(name, packed, self._latest)


def old_graves(database: Database, state: PartitionState, kind: GraveKind, before_ms: int) -> list[Grave]:
    """Returns the oldest rows of a list that were written before `before_ms`, a bounded number of them."""
    found: list[Grave] = []
    bounds = grave_key(state.prefix, kind, 0), grave_key(state.prefix, kind, OFFSET_END)
    for row_key, raw in database.scan(*bounds, local_database.GRAVES):
        written_ms, rest = decode_grave(raw)
        if written_ms >= before_ms or len(found) == _GRAVES_PER_BATCH:
            break
        found.append(Grave(row_key, rest, int.from_bytes(row_key[-8:], "big")))
    return found


def drop(
    database: Database, batch: WriteBatch, state: PartitionState, kind: GraveKind, graves: Sequence[Grave]
) -> None:
    """Deletes what the rows of a list name. Called on the commit thread, which alone moves the index.

    The tombstone of a key that was written again is a replaced record; its index row names the newer one.
    """
    index = database.families[local_database.LATEST]
    for grave in graves:
        batch.delete(grave.row_key, database.handles[local_database.GRAVES])
        if kind is GraveKind.REPLACED:
            row_key, key = state.prefix + grave.rest[:8], grave.rest[8:]
            # A write that failed may have left index rows whose offsets went to others: ask before deleting.
            raw: bytes | None = database.records.get(row_key)
            if raw is not None and decode_record(0, raw).key == key:
                batch.delete(row_key)
        elif index.get(state.prefix + grave.rest) == pack_u64(grave.offset):
            batch.delete(state.prefix + grave.rest, database.handles[local_database.LATEST])
            batch.delete(record_key(state.prefix, grave.offset))
