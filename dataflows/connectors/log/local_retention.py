"""Forgetting in the local log: old records of timed topics, and what compaction left behind.

Records leave by prefix (one range deletion and a new start, 0.1 ms for any number of them), the rows of
compacted topics one by one from lists by age. Everything is written by the commit thread, so it cannot cross
an append; looking for what is old, and giving the space back, happen on the caller's thread.
"""

from collections.abc import Iterable, Sequence

from rocksdict import WriteBatch

from dataflows.connectors.log import local_database
from dataflows.connectors.log.local_commit import Change, Committer
from dataflows.connectors.log.local_compaction import (
    REPLACED_MS,
    TOMBSTONE_MS,
    Grave,
    GraveKind,
    drop,
    old_graves,
)
from dataflows.connectors.log.local_database import Database
from dataflows.connectors.log.local_keys import PartitionState, encode_state, record_key, state_key
from dataflows.connectors.log.local_reader import first_offset_at

_TIMEOUT_S = 60.0
_DROPPED_BEFORE_COMPACTING = 100_000  # deleted rows that a rebuilding view has to step over


class Retention:
    """Applies the topics' retention. One caller at a time."""

    def __init__(self, database: Database, committer: Committer, states: Iterable[PartitionState]) -> None:
        self._database = database
        self._committer = committer
        self._states = tuple(states)
        self._dropped = dict.fromkeys((state.prefix for state in self._states), 0)

    def enforce(self, now_ms: int) -> int:
        """Drops what is too old at `now_ms` and returns how many records that were.

        Raises:
            LogUnavailable: not known to be durable; to be tried again later.
        """
        return sum([self._enforce_one(state, now_ms) for state in self._states])

    def _enforce_one(self, state: PartitionState, now_ms: int) -> int:
        if state.retention_ms is None:
            dropped = self._drop(state, GraveKind.REPLACED, now_ms - REPLACED_MS)
            dropped += self._drop(state, GraveKind.TOMBSTONE, now_ms - TOMBSTONE_MS)
            self._dropped[state.prefix] += dropped
            if self._dropped[state.prefix] >= _DROPPED_BEFORE_COMPACTING:
                self._dropped[state.prefix] = 0
                self._database.compact(record_key(state.prefix, 0), record_key(state.prefix, state.end))
            return dropped
        start = first_offset_at(self._database, state, now_ms - state.retention_ms)
        before = state.start
        if start <= before:
            return 0
        self._move_start(state, start)
        self._database.compact(record_key(state.prefix, before), record_key(state.prefix, start))
        return start - before

    def _move_start(self, state: PartitionState, start: int) -> None:
        before = state.start
        meta = self._database.handles[local_database.META]

        def write(batch: WriteBatch) -> None:
            batch.delete_range(record_key(state.prefix, before), record_key(state.prefix, start))
            batch.put(state_key(state.prefix), encode_state(state, state.end, state.last_ms), meta)

        # In memory first: a reader below the new start must be told so rather than read a hole.
        state.start = start
        try:
            self._committer.run(Change(write, _nothing), _TIMEOUT_S)
        except BaseException:
            state.start = before
            raise

    def _drop(self, state: PartitionState, kind: GraveKind, before_ms: int) -> int:
        dropped = 0
        while graves := old_graves(self._database, state, kind, before_ms):

            def write(batch: WriteBatch, found: Sequence[Grave] = graves) -> None:
                drop(self._database, batch, state, kind, found)

            self._committer.run(Change(write, _nothing), _TIMEOUT_S)
            dropped += len(graves)
        return dropped


def _nothing() -> None:
    """There is nothing to move in memory."""
