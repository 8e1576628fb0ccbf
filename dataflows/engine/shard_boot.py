"""Starts shards: claims them, reconciles their stores with the log, and says where consumption goes on.

All shards of a process are claimed together, before anything is changed in any store: a process that may not
have one of them has none. Then one after the other is brought up to what its topics know. What that takes is
known beforehand from the ends of the topics, so a long start can say how far it is, and a stop can end it
between two blocks: whatever was redone stays redone.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import structlog

from dataflows.connectors.log.port import Log, Record, TopicPartition
from dataflows.engine.barrier import GROUP, read_stamp
from dataflows.engine.shard_claims import ShardClaims, Terms
from dataflows.engine.start_progress import StartProgress
from dataflows.engine.stop import StopSignal
from operators.shard.engine import ShardEngine
from operators.shard.policy import ShardPolicy
from operators.shard.state import EndpointView
from operators.shard.store_port import ShardStore
from schemas import topics
from schemas.endpoint import DisabledReport
from schemas.errors import FormatMismatch, Unavailable
from schemas.ids import partition_of
from schemas.wire.records import DEAD_LETTER_KEY, DISABLED_REPORT, TRANSITION_KEY

READ_BLOCK = 1_000
_LOOK_S = 0.05

_log = structlog.get_logger(__name__)

Reports = Mapping[int, Sequence[DisabledReport]]


class StartInterrupted(Unavailable):
    """A stop was asked for while the shards were starting; the next start goes on where this one ended."""


class Started(NamedTuple):
    """The engines of a process's shards, ready to take work, and the claims that they hold."""

    engines: dict[int, ShardEngine]
    claims: ShardClaims


def start_shards(
    log: Log,
    stores: Mapping[int, ShardStore],
    endpoints: EndpointView,
    policy: ShardPolicy,
    clock_ms: Callable[[], int],
    *,
    terms: Terms = Terms(),  # noqa: B008 - immutable
    progress: StartProgress | None = None,
    stop: StopSignal | None = None,
) -> Started:
    """Claims shards and returns their engines, reconciled: everything their topics know is in their stores.

    Args:
        log: topics.
        stores: by shard; opened, locked.
        endpoints: complete as of now.
        policy: of every shard.
        clock_ms: milliseconds UTC.
        terms: on which shards are taken from other stores.
        progress: is told how far it is.
        stop: ends the start early.

    Raises:
        Refused: a shard belongs to another store.
        FormatMismatch: a store stands beyond the log's end, or belongs to another log.
        StartInterrupted: a stop was asked for.
    """
    progress = progress or StartProgress()
    stop = stop or StopSignal()
    claims = ShardClaims.make(log, stores, clock_ms(), terms)
    if claims.taken and terms.wait_ms:
        _wait_for_the_old_owners(claims, terms.wait_ms, stop)
    boots = [
        _ShardBoot(log, ShardEngine(shard, claims.epochs[shard], store, endpoints, policy), store, terms)
        for shard, store in stores.items()
    ]
    progress.begin(sum(boot.record_count for boot in boots))
    is_any_empty = any(boot.engine.reconcile.position is None for boot in boots)
    reports = _reports(log) if is_any_empty else {}
    return Started({boot.shard: boot.run(progress, stop, reports) for boot in boots}, claims)


def start_shard(
    log: Log,
    shard: int,
    store: ShardStore,
    endpoints: EndpointView,
    policy: ShardPolicy,
    clock_ms: Callable[[], int],
    *,
    rebuild: bool = False,
) -> ShardEngine:
    """Starts one shard alone; see `start_shards`."""
    terms = Terms(rebuild=rebuild)
    return start_shards(log, {shard: store}, endpoints, policy, clock_ms, terms=terms).engines[shard]


class _ShardBoot:
    """One shard between its claim and its first record."""

    def __init__(self, log: Log, engine: ShardEngine, store: ShardStore, terms: Terms) -> None:
        self.engine = engine
        self.shard = engine.state.shard
        self._log = log
        self._store = store
        self._where = terms.directories.get(self.shard, f"of shard {self.shard}")
        position = engine.reconcile.position
        self._letters = TopicPartition(topics.DEAD_LETTERS.name, self.shard)
        self._letters_at = self._resume(self._letters, position.dead_letters_position if position else 0)
        self._changes = TopicPartition(topics.TRANSITIONS.name, self.shard)
        self._changes_at = self._resume(self._changes, position.transitions_position if position else 0)
        self._work = TopicPartition(topics.DELIVERIES.name, self.shard)
        self._work_at = self._deliveries_offset()
        self.record_count = log.end(self._letters) - self._letters_at
        self.record_count += log.end(self._changes) - self._changes_at

    def run(self, progress: StartProgress, stop: StopSignal, reports: Reports) -> ShardEngine:
        """Reconciles; blocks for as long as that takes."""
        log, engine = self._log, self.engine
        reconcile = engine.reconcile
        ends: dict[str, int] = {}
        # Dead letters first: an end whose dead letter did not get there is not redone.
        reconcile.note(self._letters.topic, [])
        for block in _read(log, self._letters, self._letters_at):
            _refuse_to_go_on(stop)
            reconcile.note(
                self._letters.topic, [DEAD_LETTER_KEY.decode(record.key or b"").stamp for record in block]
            )
            progress.advance(self.shard, len(block))
        ends[self._letters.topic] = log.end(self._letters)
        for block in _read(log, self._changes, self._changes_at):
            _refuse_to_go_on(stop)
            reconcile.redo([TRANSITION_KEY.decode(record.key or b"") for record in block])
            progress.advance(self.shard, len(block))
        ends[self._changes.topic] = log.end(self._changes)
        if reconcile.position is None:
            reconcile.seed(reports.get(self.shard, ()))
        engine.start(self._work_at, log.end(self._work), ends)
        _log.info(
            "shard_started",
            shard=self.shard,
            epoch=engine.state.epoch,
            redone=reconcile.redone_count,
            deliveries_offset=self._work_at,
            deliveries_end=log.end(self._work),
        )
        return engine

    def _deliveries_offset(self) -> int:
        """Returns where consumption goes on: the store's position, unless a person moved the group."""
        of, position = self._work, self.engine.reconcile.position
        stored = self._resume(of, position.deliveries_offset if position is not None else 0)
        committed = self._log.committed(GROUP, of)
        if committed is None:
            return stored
        stamp = read_stamp(committed)
        if stamp is None:
            _log.warning(
                "group_moved_by_person", group=GROUP, shard=self.shard, offset=committed.offset, stored=stored
            )
            if committed.offset > self._log.end(of):
                raise FormatMismatch(
                    f"group {GROUP} was set to offset {committed.offset} of {of.topic}[{of.partition}], but "
                    f"the log ends at {self._log.end(of)}: set it to an offset that exists"
                )
            return max(committed.offset, self._log.start(of))
        store_id = self._store.store_id
        if position is not None and (stamp.store != store_id or stamp.barrier > position.barrier):
            _log.warning("store_is_older_than_group", shard=self.shard, store=store_id, mirrored=stamp.store)
        return stored

    def _resume(self, of: TopicPartition, offset: int) -> int:
        """Returns the offset, raised to the log's start: what retention passed is treated as empty.

        Raises:
            FormatMismatch: the offset is beyond the log's end.
        """
        end = self._log.end(of)
        if offset > end:
            raise FormatMismatch(
                f"the directory {self._where} stands at offset {offset} of {of.topic}[{of.partition}], but "
                f"the log ends at {end}: it was replaced by an older one, or has lost its tail, and with it "
                "what was accepted since. Restore the log that belongs to the shards"
            )
        return max(offset, self._log.start(of))


def _reports(log: Log) -> Reports:
    """Returns what was reported of endpoints, by shard; read once, for stores that start empty."""
    of = TopicPartition(topics.ENDPOINT_STATUS.name, 0)
    shard_count = log.partition_count(topics.DELIVERIES.name)
    last: dict[bytes, DisabledReport | None] = {}
    for block in _read(log, of, log.start(of)):
        for record in block:
            last[record.key or b""] = None if record.value is None else DISABLED_REPORT.decode(record.value)
    by_shard: dict[int, list[DisabledReport]] = defaultdict(list)
    for report in last.values():
        if report is not None:
            by_shard[partition_of(report.endpoint_id, shard_count)].append(report)
    return by_shard


def _wait_for_the_old_owners(claims: ShardClaims, wait_ms: int, stop: StopSignal) -> None:
    _log.warning("waiting_for_old_owners", shards=sorted(claims.taken), wait_ms=wait_ms)
    until_s = time.monotonic() + wait_ms / 1_000
    while (left_s := until_s - time.monotonic()) > 0:
        _refuse_to_go_on(stop)
        claims.check()
        time.sleep(min(left_s, _LOOK_S))


def _refuse_to_go_on(stop: StopSignal) -> None:
    if stop.is_requested:
        raise StartInterrupted("stopped before its shards had started; the next start goes on from here")


def _read(log: Log, of: TopicPartition, start: int) -> Iterator[Sequence[Record]]:
    """Yields blocks up to the end that the partition has now."""
    end = log.end(of)
    reader = log.reader({of: start})
    try:
        while reader.position(of) < end:
            yield reader.poll(of, READ_BLOCK)
    finally:
        reader.close()
