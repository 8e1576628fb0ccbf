"""The `route` dataflow: events in, one delivery per matching endpoint out.

    events ─ decode ─ validate ─ match ─ freeze ─ fan_out ─ append ─> deliveries, rejected

Items are blocks of one partition's events. The steps up to `validate` handle a whole block; from `match` on
they are generators, drawn by `append` as the log acknowledges, because one event may have 100,000 endpoints
(see `dataflows/engine/outflow.py`).

`route` keeps no state. Its position is the offset of group `route`, committed only up to what is durable
in `deliveries`, so a crash fans some events out again: with the same ids, which `deliver` recognises.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from msgspec import Struct

from dataflows.connectors.log.port import Entry, Log, Record, TopicPartition
from dataflows.connectors.table_view import TableView
from dataflows.engine.append_sink import AppendSink, MarkedLog
from dataflows.engine.block_source import Block, LogBlockSource, SourceHooks
from dataflows.engine.offset_committer import INTERVAL_MS, OffsetCommitter
from dataflows.engine.ordered_appends import OrderedAppends
from dataflows.engine.outflow import Addressed, Outflow
from dataflows.engine.positions import ContiguousAcks, go_on_at_start, start_positions
from dataflows.engine.stop import StopSignal
from dataflows.engine.try_marks import TryMarks, key_of
from dataflows.engine.view_gate import ViewGate
from operators.endpoint_index import EndpointIndex, Subscriber
from operators.event_identity import identify
from operators.event_rules import violations
from operators.fan_out import FrozenEvent, fan_out, freeze
from operators.rejection import POISON, reject, rejected_key
from operators.suspicion import Phase
from schemas import topics
from schemas.dead_letter import Rejected
from schemas.delivery import EventPosition
from schemas.endpoint import DisabledReport, Endpoint
from schemas.errors import UnreadableRecord
from schemas.event import Event
from schemas.wire import records

FLOW = "route"
GROUP = "route"
STOP_DEADLINE_MS = 5_000
PAUSE_MS = 4
STATUS_INTERVAL_S = 0.5
"""How often disabled endpoints are looked for; they match for 72 h anyway, and are held."""
_CHUNK_BYTES = 1 << 20
_CHUNK_SUBSCRIBERS = 1_000
_DELIVERIES = topics.DELIVERIES.name
_REJECTED = TopicPartition(topics.REJECTED.name, 0)
_ENDPOINTS = TopicPartition(topics.ENDPOINTS.name, 0)

Change = tuple[str, Endpoint | DisabledReport | None]
"""The key of a record, and what it is now; None: deleted."""


class RouteCounts(Struct):
    """What has passed since the start; written by the flow's thread, read by whoever shows it."""

    events: int = 0
    deliveries: int = 0
    rejected: int = 0
    unmatched: int = 0
    disabled: int = 0


class Read(NamedTuple):
    """A block with the events that its records hold, and those that hold none."""

    block: Block
    events: Sequence[tuple[Record, Event]]
    rejected: Sequence[Rejected]


class Matched(NamedTuple):
    """A block with its events and who gets them; drawn one by one."""

    read: Read
    matches: Iterator[tuple[Record, Event, list[Subscriber]]]


class Frozen(NamedTuple):
    """A block with its events' bodies rendered; drawn one by one."""

    read: Read
    events: Iterator[tuple[FrozenEvent, list[Subscriber]]]


class Outgoing(NamedTuple):
    """A block and the batches of entries it becomes; drawn one by one."""

    block: Block
    batches: Iterator[list[Addressed]]


class Route:
    """The parts of one route process, and the flow over them.

    Args:
        log: topics.
        endpoints: view of `endpoints`; may be shared with other threads.
        endpoint_status: view of `endpoint_status`: which generations their own answers disabled.
        stop: ends the flow.
        partitions: of `events`; all of them unless given.
        beat: called at every poll, for the watchdog.
        commit_ms: between commits of the group's offsets, milliseconds.
        stop_deadline_ms: how long a stop waits for acknowledgements.
        may_write: while it says no, nothing new is begun (the disk is nearly full).
        marks: of tries: what a process died of that was killed by an event.
    """

    def __init__(  # noqa: PLR0913 - the composition of a process
        self,
        log: Log,
        endpoints: TableView[Endpoint],
        stop: StopSignal,
        *,
        endpoint_status: TableView[DisabledReport] | None = None,
        partitions: Sequence[int] | None = None,
        beat: Callable[[], None] = lambda: None,
        commit_ms: int = INTERVAL_MS,
        stop_deadline_ms: int = STOP_DEADLINE_MS,
        may_write: Callable[[], bool] = lambda: True,
        marks: TryMarks | None = None,
    ) -> None:
        self.counts = RouteCounts()
        self._log = log
        self._stop = stop
        self._beat = beat
        self._stop_deadline_s = stop_deadline_ms / 1_000
        self._stop_began_s: float | None = None
        numbers = range(log.partition_count(topics.EVENTS.name)) if partitions is None else partitions
        self._partitions = [TopicPartition(topics.EVENTS.name, number) for number in numbers]
        self._marks = marks or TryMarks(None, topics.EVENTS.name, "", log.partition_count(topics.EVENTS.name))
        self._steps = Steps(log, endpoints, endpoint_status, self.counts, self._marks)
        self._status = endpoint_status
        self._next_status_at_s = 0.0
        self._acks = ContiguousAcks()
        self._outflow = Outflow(OrderedAppends(MarkedLog(log, self._marks)), self._acks, may_write=may_write)
        self._gate = ViewGate(log, _ENDPOINTS, endpoints)
        self._commit_ms = commit_ms
        self._committer: OffsetCommitter | None = None

    def build(self) -> Dataflow:
        """Returns the dataflow; run it once.

        Raises:
            Refused: the group's offset lies above the log's end.
        """
        hooks = SourceHooks(
            has_credit=lambda _: self._has_credit,
            on_poll=self._on_poll,
            may_end=self._may_end,
            on_end=self._on_end,
            on_out_of_range=lambda error: go_on_at_start(error, GROUP),
            gate=self._gate,
            group=self._group if self._marks.is_wary else None,
        )
        positions = start_positions(self._log, GROUP, self._partitions)
        self._committer = OffsetCommitter(self._log, GROUP, interval_ms=self._commit_ms)
        steps = self._steps
        flow = Dataflow(FLOW)
        blocks = op.input(
            "events", flow, LogBlockSource(self._log.reader, positions, self._stop, hooks, pause_ms=PAUSE_MS)
        )
        read = op.map("decode", blocks, lambda keyed: steps.decode(keyed[1]))
        valid = op.map("validate", read, steps.validate)
        matched = op.map("match", valid, steps.match)
        frozen = op.map("freeze", matched, steps.freeze)
        outgoing = op.map("fan_out", frozen, steps.fan_out)
        op.output("append", outgoing, AppendSink(self._outflow, self._marks))
        return flow

    @property
    def _has_credit(self) -> bool:
        # While anything is suspected, what is open is what was handed over last: a death is its deed.
        return self._outflow.has_credit and (self._outflow.is_idle or not self._marks.has_suspects)

    def _group(self, of: TopicPartition, offset: int) -> int:
        return self._marks.group(key_of(of.partition, offset))

    def _on_poll(self) -> None:
        self._beat()
        now_s = time.monotonic()
        if self._status is not None and now_s >= self._next_status_at_s:
            self._next_status_at_s = now_s + STATUS_INTERVAL_S
            self._status.catch_up()
        self._outflow.pump()
        self._marks.leave()
        advanced = self._acks.take_advanced()
        for of, offset in advanced.items():
            self._marks.passed_below(of, offset)
        if advanced and self._committer is not None:
            self._committer.offer(advanced)

    def _may_end(self) -> bool:
        if self._outflow.is_idle:
            return True
        now_s = time.monotonic()
        if self._stop_began_s is None:
            self._stop_began_s = now_s
        return now_s - self._stop_began_s >= self._stop_deadline_s

    def _on_end(self) -> None:
        if self._committer is not None:
            self._committer.offer(self._acks.take_advanced())
            self._committer.close()


class Steps:
    """The named steps, each over a block. They decide nothing themselves: `operators/` does."""

    def __init__(
        self,
        log: Log,
        endpoints: TableView[Endpoint],
        endpoint_status: TableView[DisabledReport] | None,
        counts: RouteCounts,
        marks: TryMarks,
    ) -> None:
        self._marks = marks
        self._cluster_id = log.cluster_id
        self._shards = [
            TopicPartition(_DELIVERIES, shard) for shard in range(log.partition_count(_DELIVERIES))
        ]
        self._view = endpoints
        self._index = EndpointIndex()
        self._counts = counts
        self._matched_at = 0
        # Another thread may be catching the view up; changes cross over here and are applied by this one, so
        # that an endpoint is never seen half changed.
        self._changes: deque[Change] = deque()
        endpoints.on_change(lambda key, _old, new: self._changes.append((key, new)))
        if endpoint_status is not None:
            endpoint_status.on_change(
                lambda key, _old, new: self._changes.append((key, new)) if new else None
            )

    def decode(self, block: Block) -> Read:
        """Reads the records' values."""
        events: list[tuple[Record, Event]] = []
        rejected: list[Rejected] = []
        decode_event = records.decode_event
        if self._is_parked(block):
            return Read(block, [], [self._park(block)])
        self._begin(block)
        for record in block.records:
            try:
                events.append((record, decode_event(record.value or b"")))
            except UnreadableRecord as error:
                rejected.append(reject(block.topic, block.partition, *record, "unreadable", str(error)))
        self._marks.leave()
        return Read(block, events, rejected)

    def validate(self, read: Read) -> Read:
        """Rejects events that break a rule."""
        block, _, rejected = read
        good: list[tuple[Record, Event]] = []
        bad: list[Rejected] = []
        self._begin(block)
        for pair in read.events:
            broken = violations(pair[1], pair[0].value)
            if broken:
                detail = "; ".join([f"{one.pointer} {one.detail}" for one in broken])
                bad.append(reject(block.topic, block.partition, *pair[0], "invalid", detail))
            else:
                good.append(pair)
        self._marks.leave()
        self._counts.events += len(block.records)
        return Read(block, good, [*rejected, *bad])

    def match(self, read: Read) -> Matched:
        """Finds the endpoints of each event, in the view as it is when the event is drawn."""
        return Matched(read, self._matches(read.block.partition, read.events))

    def freeze(self, matched: Matched) -> Frozen:
        """Settles ids and bodies."""
        return Frozen(matched.read, self._frozen(matched.read.block, matched.matches))

    def fan_out(self, frozen: Frozen) -> Outgoing:
        """Makes the deliveries' entries, and before them the block's rejected records."""
        return Outgoing(frozen.read.block, self._batches(frozen.read.rejected, frozen.events))

    def _begin(self, block: Block) -> None:
        base = key_of(block.partition, 0)
        self._marks.begin(Phase.DECODE, [base + record.offset for record in block.records])

    def _is_parked(self, block: Block) -> bool:
        """Whether it is one record, and that one is parked: such a record is always alone."""
        key = key_of(block.partition, block.records[0].offset)
        return self._marks.is_wary and len(block.records) == 1 and key in self._marks.parked

    def _park(self, block: Block) -> Rejected:
        (record,) = block.records
        key = key_of(block.partition, record.offset)
        parking = self._marks.parked[key]
        self._marks.note_parked(key)
        kept = record._replace(key=None, value=None) if parking.is_deadly_to_keep else record
        return reject(block.topic, block.partition, *kept, POISON, parking.detail)

    def _matches(
        self, partition: int, events: Iterable[tuple[Record, Event]]
    ) -> Iterator[tuple[Record, Event, list[Subscriber]]]:
        index, counts, begin_one = self._index, self._counts, self._marks.begin_one
        base = key_of(partition, 0)
        for record, event in events:
            begin_one(Phase.ROUTE, base + record.offset)
            if self._changes:
                self._apply_changes()
            if event.endpoint_ids is None:
                found = index.match(event.tenant_id, event.type, record.timestamp_ms)
            else:
                found = index.named(event.tenant_id, event.endpoint_ids, record.timestamp_ms)
            counts.disabled += found.disabled_count
            if found.subscribers:
                yield record, event, found.subscribers
            else:
                counts.unmatched += 1

    def _frozen(
        self, block: Block, matches: Iterable[tuple[Record, Event, list[Subscriber]]]
    ) -> Iterator[tuple[FrozenEvent, list[Subscriber]]]:
        _, partition, _ = block
        for record, event, subscribers in matches:
            event_id = identify(event, self._cluster_id, block.topic, partition, record.offset)
            position = EventPosition(partition, record.offset)
            versions = dict.fromkeys([one.api_version for one in subscribers])
            yield freeze(event, event_id, record.timestamp_ms, position, versions), subscribers

    def _batches(
        self, rejected: Sequence[Rejected], events: Iterable[tuple[FrozenEvent, list[Subscriber]]]
    ) -> Iterator[list[Addressed]]:
        counts, shards, encode = self._counts, self._shards, records.DELIVERY.encode
        if rejected:
            counts.rejected += len(rejected)
            yield [(_REJECTED, Entry(rejected_key(one), records.REJECTED.encode(one))) for one in rejected]
        for event, subscribers in events:
            counts.deliveries += len(subscribers)
            for some in _chunks(subscribers, event):
                if len(subscribers) > 1:  # between two pieces of one event, other things happened
                    position = event.position
                    self._marks.begin_one(Phase.ROUTE, key_of(position.partition, position.offset))
                yield [
                    (shards[shard], Entry(delivery.id.encode(), encode(delivery)))
                    for shard, delivery in fan_out(event, some, len(shards), self._matched_at)
                ]

    def _apply_changes(self) -> None:
        changes, index = self._changes, self._index
        while changes:
            key, changed = changes.popleft()
            if isinstance(changed, DisabledReport):
                index.report_disabled(changed)
            elif changed is None:
                index.remove(key)
            else:
                index.upsert(changed)
        # A change is announced before the view's position passes its record, so the position is read after a
        # call that waits for whoever is in the middle of that: it then lies behind every change applied here.
        # One event is drawn through all steps before the next, so it still is this event's in `_batches`.
        self._view.catch_up(0)
        self._matched_at = self._view.position


def _chunks(subscribers: list[Subscriber], event: FrozenEvent) -> Iterator[list[Subscriber]]:
    """Cuts a long list, so that what is made at once has a bounded size."""
    if len(subscribers) == 1:
        yield subscribers
        return
    size = max([len(body) for body in event.bodies.values()])
    count = max(1, min(_CHUNK_SUBSCRIBERS, _CHUNK_BYTES // size))
    for start in range(0, len(subscribers), count):
        yield subscribers[start : start + count]
