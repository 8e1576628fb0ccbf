"""The `deliver` dataflow: deliveries and outcomes in, signed requests out, one keyed step in between.

    deliveries ─┐
                ├─ merge ─ shard (keyed, hosts the engine) ─ send
    outcomes ───┘

Wiring only. What a shard decides stands in `operators/shard`; how Bytewax hosts it, in `dataflows/engine`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from dataflows.connectors.key_ring import KeyRing
from dataflows.connectors.log.port import Log, TopicPartition
from dataflows.connectors.sender.port import Sender
from dataflows.connectors.table_view import TableView
from dataflows.engine.barrier import BackgroundSync
from dataflows.engine.block_source import LogBlockSource, SourceHooks, shard_key
from dataflows.engine.items import Boot, Sends
from dataflows.engine.ordered_appends import OrderedAppends
from dataflows.engine.outbox_publisher import OutboxPublisher
from dataflows.engine.outcome_source import OutcomeSource
from dataflows.engine.shard_boot import start_shards
from dataflows.engine.shard_claims import Terms
from dataflows.engine.shard_host import ShardHost
from dataflows.engine.shard_runtime import ShardRuntime
from dataflows.engine.shard_tries import ShardTries
from dataflows.engine.slots import Slots
from dataflows.engine.start_progress import StartProgress
from dataflows.engine.stop import StopSignal
from dataflows.engine.ticker import Ticker
from dataflows.engine.try_marks import TryMarks, key_of
from operators.request_head import RequestHead, make_head, prepare
from operators.shard.actions import Dispatch
from operators.shard.policy import ShardPolicy
from operators.shard.store_port import ShardStore
from operators.suspicion import Phase, run_length
from schemas import topics
from schemas.endpoint import Endpoint
from schemas.errors import Unavailable
from schemas.outcome import PreparedRequest

FLOW = "deliver"
VIEW_INTERVAL_S = 0.05
"""How often changed endpoints are looked for; the promise is 5 s."""
BARRIER_MS = 1_000
HEADS_MAX = 100_000
OUTBOX_ROW_BYTES = 1_000


class Deliver:
    """The parts of one deliver process, and the flow over them.

    Args:
        log: topics.
        stores: by shard; opened, locked.
        endpoints: view of `endpoints`.
        key_ring: opens secrets.
        sender: sends.
        slots: requests in flight at once.
        policy: of the shards.
        stop: ends the flow.
        clock_ms: the schedule clock, milliseconds UTC.
        wall_ms: the wall clock, milliseconds UTC: what signatures say.
        barrier_ms: between barriers.
        user_agent: of every request.
        connect_timeout_ms: DNS, TCP and TLS together.
        sync_ms: between background syncs.
        stop_deadline_ms: how long a stop waits for what is in flight; timeouts of attempts are capped 5 s
            below.
        outbox_bytes_max: beyond it no attempt starts.
        beat: called at every poll, for the watchdog.
        terms: on which shards are taken from other stores.
        progress: is told how far the start has come.
        may_write: while it says no, no record is taken and no attempt starts (the disk is nearly full).
        marks: of tries: what a process died of that was killed by a delivery.
    """

    def __init__(  # noqa: PLR0913 - the composition of a process
        self,
        *,
        log: Log,
        stores: Mapping[int, ShardStore],
        endpoints: TableView[Endpoint],
        key_ring: KeyRing,
        sender: Sender,
        slots: int,
        policy: ShardPolicy,
        stop: StopSignal,
        clock_ms: Callable[[], int],
        wall_ms: Callable[[], int],
        barrier_ms: int = BARRIER_MS,
        user_agent: str,
        connect_timeout_ms: int,
        sync_ms: int,
        stop_deadline_ms: int,
        outbox_bytes_max: int,
        beat: Callable[[], None] = lambda: None,
        terms: Terms = Terms(),  # noqa: B008 - immutable
        progress: StartProgress | None = None,
        may_write: Callable[[], bool] = lambda: True,
        marks: TryMarks | None = None,
    ) -> None:
        self.slots = Slots(slots, may_write)
        self._may_write = may_write
        self.sender = sender
        self._log = log
        self._stores = stores
        self._endpoints = endpoints
        self._stop = stop
        self._clock_ms = clock_ms
        self._beat = beat
        self._stop_deadline_ms = stop_deadline_ms
        self._stop_began_s = 0.0
        self._next_view_at_s = 0.0
        self.signer = Signer(
            key_ring, clock_ms, wall_ms, user_agent, connect_timeout_ms, stop_deadline_ms - 5_000
        )
        endpoints.catch_up()
        self._appends = OrderedAppends(log)
        started = start_shards(
            log, stores, endpoints, policy, clock_ms, terms=terms, progress=progress, stop=stop
        )
        self.sync = BackgroundSync(log, stores, sync_ms, started.claims)
        name = topics.DELIVERIES.name
        self._marks = marks or TryMarks(None, name, "", log.partition_count(name))
        self.runtimes: dict[int, ShardRuntime] = {}
        for shard, engine in started.engines.items():
            engine.state.tries = ShardTries(self._marks, shard)
            publisher = OutboxPublisher(engine, self._appends)
            self.runtimes[shard] = ShardRuntime(
                engine, publisher, self.slots, stop, self.sync, clock_ms, outbox_bytes_max // OUTBOX_ROW_BYTES
            )

        self._ticker = Ticker(
            self.runtimes, clock_ms, barrier_ms / 1_000, may_fire=lambda: self.slots.is_open
        )

    def build(self) -> Dataflow:
        """Returns the dataflow; run it once."""
        shard_count = self._log.partition_count(topics.DELIVERIES.name)
        partitions = [TopicPartition(topics.DELIVERIES.name, shard) for shard in self.runtimes]
        deliveries = LogBlockSource(
            self._log.reader,
            {of: self.runtimes[of.partition].engine.state.next_offset for of in partitions},
            self._stop,
            SourceHooks(has_credit=lambda _: self._may_write()),
            boot=[(shard_key(of), Boot(of.partition)) for of in partitions],
            pause_ms=0,
        )
        outcomes = OutcomeSource(
            self.sender,
            self.slots,
            self._stop,
            shard_count,
            self._on_poll,
            self._is_past_deadline,
            self._ticker.due,
        )
        self._endpoints.on_change(lambda key, _old, _new: outcomes.changed_endpoints.append(key))
        self.sync.start()

        flow = Dataflow(FLOW)
        blocks = op.input("deliveries", flow, deliveries)
        loop = op.input("outcomes", flow, outcomes)
        items = op.merge("work", blocks, loop)
        sends = op.stateful_batch(
            "shard", items, lambda _resume: ShardHost(self.runtimes, self._ticker.arrived)
        )
        op.output("send", sends, SendSink(self.sender, self.signer, self._marks))
        return flow

    def finish(self, deadline_s: float) -> None:
        """Waits for the outbox's acknowledgements after the flow has ended, syncs and mirrors a last time."""
        until = time.monotonic() + deadline_s
        publishers = [runtime.publisher for runtime in self.runtimes.values()]
        while time.monotonic() < until:
            self._appends.pump()
            for publisher in publishers:
                publisher.pump()
            if all(publisher.is_done for publisher in publishers):
                break
            time.sleep(0.002)
        for runtime in self.runtimes.values():
            runtime.barrier()
        self.sync.close()
        for store in self._stores.values():
            store.close()

    def _on_poll(self) -> None:
        if self._ticker.is_answered:  # a poll alone says little: what is emitted must arrive, too
            self._beat()
        if not self.sender.is_alive and not self._stop.is_requested:
            raise Unavailable("the sender's thread has died; its log line sender_thread_died says why")
        self._appends.pump()
        now_s = time.monotonic()
        if now_s >= self._next_view_at_s:
            self._next_view_at_s = now_s + VIEW_INTERVAL_S
            self._endpoints.catch_up()

    def _is_past_deadline(self) -> bool:
        now_s = time.monotonic()
        self._stop_began_s = self._stop_began_s or now_s
        return (now_s - self._stop_began_s) * 1_000 >= self._stop_deadline_ms


class Signer:
    """Makes signed requests of dispatches; what does not change per attempt is kept per endpoint revision."""

    def __init__(
        self,
        key_ring: KeyRing,
        clock_ms: Callable[[], int],
        wall_ms: Callable[[], int],
        user_agent: str,
        connect_timeout_ms: int,
        timeout_ms_max: int,
    ) -> None:
        self._key_ring = key_ring
        self._clock_ms = clock_ms
        self._wall_ms = wall_ms
        self._user_agent = user_agent
        self._connect_timeout_ms = connect_timeout_ms
        self._timeout_ms_max = timeout_ms_max
        self._heads: dict[str, tuple[int, RequestHead]] = {}

    def sign(self, shard: int, dispatches: Sequence[Dispatch]) -> list[PreparedRequest]:
        """Returns the requests of a shard's dispatches, signed with the time that the world goes by."""
        now_ms, signed_at_ms = self._clock_ms(), self._wall_ms()
        timeout_ms = self._timeout_ms_max
        requests = []
        for dispatch in dispatches:
            endpoint, live = dispatch.endpoint, dispatch.live
            delivery = live.delivery
            secrets = self._key_ring.open_secrets(endpoint, now_ms)
            head = self._head(endpoint)
            token = (shard, live.offset)
            requests.append(
                prepare(head, token, delivery.event_id, delivery.body, secrets, signed_at_ms, timeout_ms)
            )
        return requests

    def _head(self, endpoint: Endpoint) -> RequestHead:
        kept = self._heads.get(endpoint.id)
        if kept is not None and kept[0] == endpoint.revision:
            return kept[1]
        if len(self._heads) >= HEADS_MAX:
            self._heads.clear()
        head = make_head(endpoint, self._user_agent, self._connect_timeout_ms)
        self._heads[endpoint.id] = (endpoint.revision, head)
        return head


class SendSink(DynamicSink[tuple[str, Sends]]):
    """Hands signed requests to the sender."""

    def __init__(self, sender: Sender, signer: Signer, marks: TryMarks) -> None:
        self._sender = sender
        self._signer = signer
        self._marks = marks

    def build(
        self, step_id: str, worker_index: int, worker_count: int
    ) -> StatelessSinkPartition[tuple[str, Sends]]:
        """Called by Bytewax in the flow's thread."""
        del step_id, worker_index, worker_count
        return _Sending(self._sender, self._signer, self._marks)


class _Sending(StatelessSinkPartition[Any]):
    def __init__(self, sender: Sender, signer: Signer, marks: TryMarks) -> None:
        self._sender = sender
        self._signer = signer
        self._marks = marks

    def write_batch(self, items: list[Any]) -> None:
        sends = [sends for _, sends in items]
        if self._marks.is_wary:
            for sends_one in sends:
                for run in self._runs(sends_one):
                    self._send([run])
        else:
            self._send(sends)

    def _send(self, sends: list[Sends]) -> None:
        keys = [key_of(one.shard, dispatch.live.offset) for one in sends for dispatch in one.dispatches]
        self._marks.begin(Phase.SEND, keys)
        self._sender.submit([r for one in sends for r in self._signer.sign(one.shard, one.dispatches)])
        self._marks.done()

    def _runs(self, sends: Sends) -> Iterator[Sends]:
        """Cuts them where suspects are, who are sent by themselves; the order stays."""
        dispatches = sends.dispatches
        groups = [self._marks.group(key_of(sends.shard, one.live.offset)) for one in dispatches]
        start = 0
        while start < len(dispatches):
            end = start + run_length(groups[start:])
            yield Sends(sends.shard, dispatches[start:end])
            start = end
