"""Starts one shard: claims it, reconciles its store with the log, and says where consumption goes on."""

from collections.abc import Callable, Iterator, Sequence

import structlog

from dataflows.connectors.log.port import Entry, Log, Record, TopicPartition
from dataflows.engine.barrier import GROUP, read_stamp
from operators.shard.engine import ShardEngine
from operators.shard.policy import ShardPolicy
from operators.shard.state import EndpointView
from operators.shard.store_port import ShardStore
from schemas import topics
from schemas.endpoint import DisabledReport
from schemas.errors import FormatMismatch, Refused
from schemas.ids import partition_of
from schemas.shard_claim import ShardClaim
from schemas.wire.records import DEAD_LETTER_KEY, DISABLED_REPORT, SHARD_CLAIM, TRANSITION_KEY

READ_BLOCK = 1_000

_log = structlog.get_logger(__name__)


def claim(log: Log, shard: int, store_id: str, now_ms: int, *, rebuild: bool) -> int:
    """Claims a shard for a store; returns the owner's epoch, which is the claim's own offset.

    Raises:
        Refused: the shard belongs to another store, which has not released it.
    """
    of = TopicPartition(topics.SHARDS.name, 0)
    key = str(shard).encode()
    last = None
    for block in _read(log, of, log.start(of)):
        for record in block:
            if record.key == key and record.value is not None:
                last = SHARD_CLAIM.decode(record.value)
    if last is not None and last.store_id != store_id and not last.is_released and not rebuild:
        message = (
            f"shard {shard} belongs to store {last.store_id}, but this directory holds store {store_id}: it "
            "is new, or another one's. Start with the directory that owns the shard; if that one is lost, "
            "start with --rebuild"
        )
        raise Refused(message)
    entry = Entry(key, SHARD_CLAIM.encode(ShardClaim(shard, store_id, now_ms)))
    return log.append_and_wait(of, [entry]).first_offset


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
    """Returns the shard's engine, reconciled: everything its topics know is in its store.

    Raises:
        Refused: the shard belongs to another store.
        FormatMismatch: the store stands beyond the log's end: it belongs to another log.
    """
    epoch = claim(log, shard, store.store_id, clock_ms(), rebuild=rebuild)
    engine = ShardEngine(shard, epoch, store, endpoints, policy)
    position = engine.reconcile.position
    ends: dict[str, int] = {}

    # Dead letters first: an end whose dead letter did not get there is not redone.
    of = TopicPartition(topics.DEAD_LETTERS.name, shard)
    engine.reconcile.note(of.topic, [])
    at = _resume(log, of, position.dead_letters_position if position is not None else 0)
    for block in _read(log, of, at):
        stamps = [DEAD_LETTER_KEY.decode(record.key or b"").stamp for record in block]
        engine.reconcile.note(of.topic, stamps)
    ends[of.topic] = log.end(of)

    of = TopicPartition(topics.TRANSITIONS.name, shard)
    at = _resume(log, of, position.transitions_position if position is not None else 0)
    for block in _read(log, of, at):
        engine.reconcile.redo([TRANSITION_KEY.decode(record.key or b"") for record in block])
    ends[of.topic] = log.end(of)

    if position is None:
        engine.reconcile.seed(_reports(log, shard))

    of = TopicPartition(topics.DELIVERIES.name, shard)
    offset = _deliveries_offset(log, of, engine, store)
    engine.start(offset, log.end(of), ends)
    _log.info(
        "shard_started",
        shard=shard,
        epoch=epoch,
        redone=engine.reconcile.redone_count,
        deliveries_offset=offset,
        deliveries_end=log.end(of),
    )
    return engine


def _reports(log: Log, shard: int) -> Iterator[DisabledReport]:
    """Yields what was reported of this shard's endpoints."""
    of = TopicPartition(topics.ENDPOINT_STATUS.name, 0)
    shard_count = log.partition_count(topics.DELIVERIES.name)
    for block in _read(log, of, log.start(of)):
        for record in block:
            if record.value is not None:
                report = DISABLED_REPORT.decode(record.value)
                if partition_of(report.endpoint_id, shard_count) == shard:
                    yield report


def _deliveries_offset(log: Log, of: TopicPartition, engine: ShardEngine, store: ShardStore) -> int:
    """Returns where consumption goes on: the store's position, unless a person moved the group."""
    position = engine.reconcile.position
    stored = _resume(log, of, position.deliveries_offset if position is not None else 0)
    committed = log.committed(GROUP, of)
    if committed is None:
        return stored
    stamp = read_stamp(committed)
    if stamp is None:
        _log.warning(
            "group_moved_by_person", group=GROUP, shard=of.partition, offset=committed.offset, stored=stored
        )
        return _resume(log, of, committed.offset)
    if position is not None and (stamp.store != store.store_id or stamp.barrier > position.barrier):
        _log.warning(
            "store_is_older_than_group", shard=of.partition, store=store.store_id, mirrored=stamp.store
        )
    return stored


def _resume(log: Log, of: TopicPartition, offset: int) -> int:
    """Returns the offset, raised to the log's start: what retention passed is treated as empty.

    Raises:
        FormatMismatch: the offset is beyond the log's end.
    """
    end = log.end(of)
    if offset > end:
        message = (
            f"the store of shard {of.partition} stands at offset {offset} of {of.topic}, but the log ends at "
            f"{end}: they do not belong together, or the log has lost its tail. Restore the log"
        )
        raise FormatMismatch(message)
    return max(offset, log.start(of))


def _read(log: Log, of: TopicPartition, start: int) -> Iterator[Sequence[Record]]:
    """Yields blocks up to the end that the partition has now."""
    end = log.end(of)
    reader = log.reader({of: start})
    try:
        while reader.position(of) < end:
            yield reader.poll(of, READ_BLOCK)
    finally:
        reader.close()
