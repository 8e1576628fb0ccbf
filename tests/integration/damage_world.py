"""A shard with a history, over a real RocksDB store, and what must come of it whatever became of the store.

`write_history` plays two lives of a shard until it is killed: thousands of deliveries, some delivered, some
waiting for a second attempt, some held, cancelled or dead, the last outbox rows not published, the last
batches not synced. It keeps the directory as the kill leaves it, the log, what was sent, and every batch that
was written (a batch is a list of steps, so that any prefix can be played again and compared row by row).
"""

import shutil
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dataflows.connectors.log.port import Entry, TopicPartition
from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.rocks_options import StoreMemory
from dataflows.engine.shard_boot import start_shard
from operators.shard.actions import Dispatch
from operators.shard.engine import ShardEngine
from operators.shard.policy import ShardPolicy
from operators.shard.store_port import Family
from schemas import ids, topics
from schemas.command import Command, CommandKind
from schemas.delivery import Delivery, DeliveryState, EventPosition
from schemas.endpoint import Endpoint, EndpointStatus, RetryPolicy
from schemas.outcome import ErrorCode, Outcome
from schemas.wire.records import COMMAND, DELIVERY, decode_work
from tests.integration.recorded_store import RecordedStore, Step, Tables, played
from tests.simulation.memory_log import START_MS, MemoryLog
from tests.simulation.scripted_shard import View, endpoint

SHARD, SHARD_COUNT = 0, 1
TICK_MS = 50
JUMP_MS = 1_000
TICKS = 110
REOPENED_AT = TICKS - 26
FLUSHED_AT = TICKS - 18
BLOCK_RECORDS = 16
BARRIER_TICKS = 6
SYNC_TICKS = 3
SYNCED_LAST_AT = TICKS - 4
SYNCED_IN_LAST_WAL = (TICKS - 12, TICKS - 9, TICKS - 6)
"""When the WAL is switched: the last sync falls into the newest WAL, whose end is not synced..."""
SYNCED_IN_OLDER_WAL = (TICKS - 12, TICKS - 9, TICKS - 2)
"""...or into an older one, whose end is not synced either: a power cut may keep only what follows it."""
PUBLISHED_UNTIL = TICKS - 3
HOUR_MS = 3_600_000
RETRY = RetryPolicy(delays_ms=(HOUR_MS, HOUR_MS, HOUR_MS), window_ms=72 * HOUR_MS)
SOON = RetryPolicy(delays_ms=(300, 300, 300), window_ms=72 * HOUR_MS)
POLICY = ShardPolicy(
    retry=RETRY, unsaved_max=100, live_max=300, endpoint_live_max=60, refill_max=30, due_block_max=50
)
MEMTABLE_BYTES = 16 * 1024  # in the first part of the history: many flushes
CALM_MEMTABLE_BYTES = 1 << 20  # in the last part: no flush but those asked for, so that WALs stay
AFTER_MEMTABLE_BYTES = 128 * 1024  # afterwards
DELIVERIES = TopicPartition(topics.DELIVERIES.name, SHARD)
TRANSITIONS = TopicPartition(topics.TRANSITIONS.name, SHARD)
DEAD_LETTERS = TopicPartition(topics.DEAD_LETTERS.name, SHARD)


@dataclass
class History:
    """One life of a shard, until it was killed.

    Attributes:
        directory: the store, as the kill left it.
        expected: by delivery id, the state that it ends in.
        sent: every request, as (delivery id, attempt number).
        wal_ends: by batch, the WAL that took it and its length then: the boundaries of records.
        synced_batches: how many batches the last sync made durable.
        flushed: how many flushes there were.
    """

    directory: Path
    log: MemoryLog
    expected: dict[str, DeliveryState]
    sent: set[tuple[str, int]]
    batches: list[tuple[int, list[Step]]]
    wal_ends: list[tuple[int, int]]
    synced_batches: int
    flushed: int
    _prefixes: dict[int, Tables] = field(default_factory=dict)
    _endpoints: dict[str, str] = field(default_factory=dict)

    @property
    def last_wal_ends(self) -> list[int]:
        """The lengths of the newest WAL behind its records."""
        newest = self.wal_ends[-1][0]
        return [end for wal, end in self.wal_ends if wal == newest]

    def prefix(self, batch_count: int) -> Tables:
        """Returns the rows that the first batches leave behind. Do not change them."""
        if batch_count not in self._prefixes:
            count = bisect_right(self.batches, batch_count, key=lambda batch: batch[0])
            self._prefixes[batch_count] = played(self.batches[:count])
        return self._prefixes[batch_count]

    def endpoint_of(self, delivery_id: str) -> str:
        """Returns where a delivery goes."""
        if not self._endpoints:
            works = (decode_work(record.value or b"") for record in self.log.records(DELIVERIES))
            self._endpoints |= {work.id: work.endpoint_id for work in works if isinstance(work, Delivery)}
        return self._endpoints[delivery_id]


class Sender:
    """Answers at once by the endpoint's name, and remembers what was asked of it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.is_first_life = True

    def send(self, dispatch: Dispatch, now_ms: int) -> Outcome:
        self.sent.append((dispatch.live.delivery.id, dispatch.number))
        return Outcome(
            token=(SHARD, dispatch.live.offset),
            started_at_ms=now_ms,
            finished_at_ms=now_ms,
            status=self._status(dispatch),
            error_code=ErrorCode.NONE,
        )

    def _status(self, dispatch: Dispatch) -> int:
        kind = dispatch.endpoint.id.split("_")[1]
        if kind == "dead":
            return 404
        if kind == "flaky" and dispatch.number == 1:
            return 500
        return 503 if kind == "bad" and self.is_first_life else 200


def make_view(held: EndpointStatus = EndpointStatus.DISABLED) -> View:
    """Returns the endpoints: sound, failing for hours, failing once, refusing, held."""
    view = View()
    for made in _endpoints(held):
        view.by_id[made.id] = made
    return view


def _endpoints(held: EndpointStatus) -> list[Endpoint]:
    return [
        *(endpoint(f"ep_ok_{number}", max_concurrency=64) for number in range(6)),
        *(endpoint(f"ep_bad_{number}", max_concurrency=64) for number in range(3)),
        endpoint("ep_flaky", max_concurrency=64, retry=SOON),
        endpoint("ep_dead", max_concurrency=64),
        endpoint("ep_held", max_concurrency=64, status=held),
    ]


class Life:
    """One process: an engine, driven as its host does, and a log that it publishes to."""

    def __init__(self, engine: ShardEngine, log: MemoryLog, sender: Sender, now_ms: int) -> None:
        self.engine = engine
        self.log = log
        self.sender = sender
        self.now_ms = now_ms

    def step(self, *, is_publishing: bool = True) -> None:
        """Takes a block, fires what is due, sends, settles, publishes."""
        engine = self.engine
        block = self.log.records(DELIVERIES, engine.state.next_offset, 4 * BLOCK_RECORDS)
        if block:
            engine.accept(block, self.now_ms)
        while engine.next_timer_at_ms() <= self.now_ms and engine.fire_timers(self.now_ms):
            pass
        dispatches = engine.next_block(self.now_ms, 200)
        engine.settle([self.sender.send(dispatch, self.now_ms) for dispatch in dispatches], self.now_ms)
        if is_publishing:
            self.publish()

    def publish(self) -> None:
        """Appends what is to be published, and acknowledges it."""
        for row in self.engine.take_publishes():
            to = TopicPartition(row.topic, SHARD)
            appended = self.log.append_and_wait(to, [Entry(row.key, row.value)])
            self.engine.acked(row.topic, [row.sequence], appended.first_offset)


def write_history(directory: Path, switched_at: Sequence[int]) -> History:
    """Plays two lives; the directory of the history is a copy of the killed one, that nobody has open.

    Args:
        switched_at: the ticks at which a new WAL is begun.
    """
    image = directory.with_name("killed")
    store = RecordedStore(_open(directory, MEMTABLE_BYTES), directory)
    log, sender, view = _empty_log(), Sender(), make_view()
    engine = start_shard(log, SHARD, store, view, POLICY, lambda: START_MS)
    life = Life(engine, log, sender, START_MS)
    expected: dict[str, DeliveryState] = {}
    for tick in range(TICKS):
        log.now_ms = life.now_ms = START_MS + tick * TICK_MS
        if tick == REOPENED_AT:
            store.close()
            flushed = sum(log.read_text().count("flush_finished") for log in directory.glob("LOG*"))
            store.inner = _open(directory, CALM_MEMTABLE_BYTES)
            engine = life.engine = start_shard(log, SHARD, store, view, POLICY, lambda: START_MS)
        _append_some(log, tick, expected)
        life.step(is_publishing=tick < PUBLISHED_UNTIL)
        if tick % BARRIER_TICKS == 0:
            engine.review_held(life.now_ms)
            engine.barrier()
        if tick == FLUSHED_AT:
            for reader in (store.inner._database, *store.inner._readers.values()):
                reader.flush()
            for reader in store.inner._seen_readers.values():
                reader.flush()
        if tick in switched_at:
            store.inner._readers[Family.META].flush()  # this family alone: a new WAL, and the old ones stay
        if (tick % SYNC_TICKS == 0 and tick < SYNCED_LAST_AT) or tick == SYNCED_LAST_AT:
            store.sync()
    # A request that nobody saw the end of.
    _append_some(log, TICKS, expected)
    engine.accept(log.records(DELIVERIES, engine.state.next_offset), life.now_ms)
    for dispatch in engine.next_block(life.now_ms, 5):
        sender.send(dispatch, life.now_ms)
    store.inner._database.cancel_all_background(wait=True)  # nothing moves while it is copied
    shutil.copytree(directory, image, ignore=shutil.ignore_patterns("LOG*"))
    store.close()
    return History(
        image,
        log,
        expected,
        set(sender.sent),
        store.batches,
        store.wal_ends,
        store.synced_batches,
        flushed,
    )


def _open(directory: Path, memtable_bytes: int) -> RocksStore:
    memory = store_memory(memtable_bytes)
    return RocksStore.open(directory, shard=SHARD, shard_count=SHARD_COUNT, memory=memory)


@cache
def store_memory(memtable_bytes: int) -> StoreMemory:
    return StoreMemory(memtable_bytes=memtable_bytes)


def _empty_log() -> MemoryLog:
    return MemoryLog({topic.name: 1 for topic in topics.ALL_TOPICS})


def _append_some(log: MemoryLog, tick: int, expected: dict[str, DeliveryState]) -> None:
    """Appends a block of deliveries, and now and then a cancellation of one that failed before."""
    names = sorted(made.id for made in _endpoints(EndpointStatus.DISABLED))
    for number in range(BLOCK_RECORDS):
        endpoint_id = names[(tick * 5 + number * 7) % len(names)]
        event_id = f"evt_{tick}_{number}"
        body = b"%d " % (tick * BLOCK_RECORDS + number) * 60
        delivery = Delivery(
            ids.delivery_id(event_id, endpoint_id),
            event_id,
            endpoint_id,
            "tenant",
            "order.created",
            "",
            body,
            ids.content_digest("order.created", body),
            log.now_ms,
            EventPosition(0, tick * BLOCK_RECORDS + number),
            1,
        )
        is_dead = endpoint_id == "ep_dead"
        expected[delivery.id] = DeliveryState.DEAD_LETTERED if is_dead else DeliveryState.DELIVERED
        log.append_and_wait(DELIVERIES, [Entry(delivery.id.encode(), DELIVERY.encode(delivery))])
        if endpoint_id == "ep_bad_1" and tick % 4 == 0:
            expected[delivery.id] = DeliveryState.CANCELLED
            command = Command(CommandKind.CANCEL, delivery.id, endpoint_id, "person")
            log.append_and_wait(DELIVERIES, [Entry(b"", COMMAND.encode(command))])
