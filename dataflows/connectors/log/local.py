"""The local log: a `Log` in one RocksDB database, so that one process needs nothing else installed.

It survives `kill -9` and a power cut with everything acknowledged: a record is shown to readers and
acknowledged only after its fsync. It has no second copy, so it never guesses: other partition counts, a newer
format, a hole or a cut tail refuse to open, and say so.

Who does what: `local_commit` writes (one thread), `local_reader` reads (any thread), `local_chain` notices a
missing piece, `local_compaction` and `local_retention` forget, `local_keys` knows the bytes, `local_database`
RocksDB.

Rejected: segment files of our own (40 % faster, and then compaction, an index and a checksum are ours to get
right); SQLite (three times slower to append, and dropping old records rewrites pages).
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import msgspec
from rocksdict import WriteBatch

from dataflows.connectors.data_directory import sync_directory
from dataflows.connectors.log import local_database
from dataflows.connectors.log.local_chain import Chain
from dataflows.connectors.log.local_commit import Answer, Change, Committer
from dataflows.connectors.log.local_database import Database
from dataflows.connectors.log.local_keys import (
    FORMAT_KEY,
    FORMAT_VERSION,
    OFFSET_END,
    FormatRow,
    PartitionState,
    TopicNumber,
    decode_group,
    decode_group_key,
    decode_state,
    encode_group,
    group_key,
    partition_prefix,
    record_key,
    state_key,
)
from dataflows.connectors.log.local_reader import (
    LocalReader,
    first_offset_at,
    has_records_from,
    last_offset_below,
)
from dataflows.connectors.log.local_retention import Retention
from dataflows.connectors.log.port import (
    Appended,
    Entry,
    GroupOffset,
    OffsetOutOfRange,
    OnAppended,
    Reader,
    TopicPartition,
)
from schemas.errors import DamagedStore, FormatMismatch, LogUnavailable, StoreUnavailable
from schemas.topics import BY_NAME

_COMMIT_TIMEOUT_S = 10.0


class LocalLog:
    """The `Log` of the embedded mode. Made by `open`; every method may be called from any thread."""

    def __init__(
        self,
        database: Database,
        chain: Chain,
        opened: "_Opened",
        committer: Committer,
    ) -> None:
        self._database = database
        self._chain = chain
        self._format = opened.format
        self._states = opened.states
        self._groups = opened.groups
        self._committer = committer
        self._retention = Retention(database, committer, self._states.values())
        self._is_closed = False

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        partitions: Mapping[str, int],
        clock_ms: Callable[[], int],
        linger_ms: float = 1.0,
        open_database: Callable[[Path], Database] = Database,
    ) -> Self:
        """Opens the log in a directory, or makes one there.

        Args:
            directory: the log's own; made (0700) when it is not there. Its parent must exist.
            partitions: topic name to partition count. Topics may be added later, counts never change.
            clock_ms: returns the time now, ms UTC: the LogAppendTime.
            linger_ms: how long a group commit waits for company.
            open_database: opens the RocksDB database; a chaos run brings one that it can end in a write.

        Raises:
            DirectoryInUse: it is open already.
            FormatMismatch: made with other partition counts, or by a newer version.
            DamagedStore: something is missing or does not read back as written; there is no second copy.
            StoreUnavailable: it cannot be opened (permissions, disk).
            LogUnavailable: it cannot be written (disk full).
        """
        _make(directory)
        database = open_database(directory / "db")
        try:
            chain = Chain(database, directory / "acknowledged")
            opened = _Opened(database, partitions)
            batch = opened.repairs
            chain.link(batch)
            database.write(batch)
            chain.linked()
        except BaseException:
            database.close()
            raise
        return cls(database, chain, opened, Committer(database, chain, clock_ms, linger_ms))

    @property
    def cluster_id(self) -> str:
        """Names this log for ever; part of ids derived from positions."""
        return self._format.cluster_id

    def partition_count(self, topic: str) -> int:
        """Returns how many partitions the topic has."""
        return self._format.topics[topic].partitions

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        """Queues the entries, in order, and returns at once. Do not change `entries` afterwards.

        Raises:
            LogUnavailable: the log is closed.
        """
        self._committer.append(self._states[to], entries, on_appended)

    def append_and_wait(
        self, to: TopicPartition, entries: Sequence[Entry], timeout_s: float = 2.0
    ) -> Appended:
        """Appends and waits for durability.

        Raises:
            LogUnavailable: no acknowledgement in time; the write may or may not have happened.
        """
        answer = Answer(self._committer)
        self._committer.append(self._states[to], entries, answer)
        return answer.wait(timeout_s)

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        """Returns a reader that starts at these offsets."""
        return LocalReader(self._database, self._states, positions)

    def start(self, of: TopicPartition) -> int:
        """Returns the lowest offset that can still be read."""
        return self._states[of].start

    def end(self, of: TopicPartition) -> int:
        """Returns the offset that the next record will get."""
        return self._states[of].end

    def offset_for_time(self, of: TopicPartition, at_ms: int) -> int:
        """Returns the first offset whose record time is at or after `at_ms`; the end, when there is none."""
        return first_offset_at(self._database, self._states[of], at_ms)

    def commit(self, group: str, offsets: Mapping[TopicPartition, GroupOffset]) -> None:
        """Stores the group's positions, all or none, durably.

        Raises:
            LogUnavailable: not known to be stored.
            OffsetOutOfRange: a position above the end, which nobody can have read; nothing is stored.
        """
        if self._is_closed:
            raise LogUnavailable("the log is closed")
        for of, position in offsets.items():
            state = self._states[of]
            if position.offset > state.end:
                raise OffsetOutOfRange(of, position.offset, state.start, state.end)
        handle = self._database.handles[local_database.GROUPS]
        rows = [
            (group_key(group, self._states[of].prefix), encode_group(position))
            for of, position in offsets.items()
        ]

        def write(batch: WriteBatch) -> None:
            for key, value in rows:
                batch.put(key, value, handle)

        def applied() -> None:
            self._groups.update({(group, of): position for of, position in offsets.items()})

        self._committer.run(Change(write, applied), _COMMIT_TIMEOUT_S)

    def committed(self, group: str, of: TopicPartition) -> GroupOffset | None:
        """Returns the group's position, or None when it never committed one."""
        return self._groups.get((group, of))

    def enforce_retention(self, now_ms: int) -> int:
        """Drops what is older than its topic's retention, and what compaction left; returns how many records.

        To be called about once a minute.

        Raises:
            LogUnavailable: not known to be durable; to be tried again later.
        """
        return self._retention.enforce(now_ms)

    def close(self) -> None:
        """Acknowledges what was queued, then frees everything, the lock too. A second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._committer.close()
        self._chain.close()
        self._database.close()


class _Opened:
    """What an open database says of itself, checked, and the rows that opening has to write."""

    def __init__(self, database: Database, partitions: Mapping[str, int]) -> None:
        self._database = database
        self.repairs = database.batch()
        self.format = self._checked_format(partitions)
        self.states: dict[TopicPartition, PartitionState] = {}
        for topic, known in self.format.topics.items():
            for partition in range(known.partitions):
                of = TopicPartition(topic, partition)
                self.states[of] = self._checked_state(of, known.number)
        self.groups = self._checked_groups()

    def _checked_format(self, partitions: Mapping[str, int]) -> FormatRow:
        raw = self._database.families[local_database.META].get(FORMAT_KEY)
        stored = (
            _decode_format(raw) if raw else FormatRow(FORMAT_VERSION, f"local-{secrets.token_hex(8)}", {})
        )
        topics = dict(stored.topics)
        for topic, count in partitions.items():
            known = topics.get(topic)
            if known is None:
                topics[topic] = TopicNumber(1 + len(topics), count)
            elif known.partitions != count:
                raise FormatMismatch(
                    f"the log was made with {known.partitions} partitions of `{topic}`, the settings say "
                    f"{count}. The "
                    f"number is fixed when a data directory is made: set it back to {known.partitions}"
                )
        widened = FormatRow(stored.version, stored.cluster_id, topics)
        if widened != stored or not raw:
            self.repairs.put(
                FORMAT_KEY, msgspec.json.encode(widened), self._database.handles[local_database.META]
            )
        return widened

    def _checked_state(self, of: TopicPartition, number: int) -> PartitionState:
        prefix = partition_prefix(number, of.partition)
        state = PartitionState(of.topic, of.partition, prefix, BY_NAME[of.topic].retention_ms)
        raw = self._database.families[local_database.META].get(state_key(prefix))
        if raw:
            state.start, state.end, state.last_ms = decode_state(raw)
        if has_records_from(self._database, state, state.end):
            # A write that failed, was not acknowledged, and left more rows than the one that took its
            # offsets.
            self.repairs.delete_range(record_key(prefix, state.end), record_key(prefix, OFFSET_END))
        last = last_offset_below(self._database, state, state.end)
        should_have = state.retention_ms is not None and state.start < state.end
        if should_have and last != state.end - 1:
            raise DamagedStore(
                f"{of.topic}[{of.partition}] should end with offset {state.end - 1}, but the last record is "
                f"{last}. There is no second copy: restore a backup of the whole data directory"
            )
        return state

    def _checked_groups(self) -> dict[tuple[str, TopicPartition], GroupOffset]:
        by_prefix = {state.prefix: of for of, state in self.states.items()}
        groups: dict[tuple[str, TopicPartition], GroupOffset] = {}
        for key, raw in self._database.scan(b"", b"\xff" * 300, local_database.GROUPS):
            group, prefix = decode_group_key(key)
            of, position = by_prefix[prefix], decode_group(raw)
            if position.offset > self.states[of].end:
                raise DamagedStore(
                    f"group {group} stands at {position.offset} in {of.topic}[{of.partition}], but the log "
                    f"ends at "
                    f"{self.states[of].end}: records are missing. Restore a backup of the whole data "
                    f"directory"
                )
            groups[group, of] = position
        return groups


def _decode_format(raw: bytes) -> FormatRow:
    try:
        row = msgspec.json.decode(raw, type=FormatRow)
    except msgspec.MsgspecError as error:
        raise DamagedStore(f"the log's format row does not decode ({error}); restore a backup") from error
    if row.version != FORMAT_VERSION:
        raise FormatMismatch(
            f"the log has format {row.version}, this program knows {FORMAT_VERSION}: use the version that "
            f"wrote it"
        )
    return row


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(directory.parent)  # its name must survive a power cut, as its contents do
    except OSError as error:
        raise StoreUnavailable(f"the log's directory {directory} cannot be made: {error}") from error
