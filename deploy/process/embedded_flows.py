"""The three flows of an embedded process: how they are started, watched, and stopped in order.

The order of a stop is the order of the data. First `route` and `deliver` are asked to end: `route` as soon
as what it appended is acknowledged, `deliver` when nothing is in flight any more, or at its deadline. Then
`deliver` finishes (outbox, last barrier, sync). `record` goes last, after it was given a moment to take
over what the others wrote at the end; whatever it does not get to, it takes over at the next start.

A flow that died is not finished: its state may be half changed, and its store is exactly what a killed
process leaves behind, which the next start knows how to heal.
"""

import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog

from dataflows.connectors.shard_store.rocks_options import StoreMemory
from dataflows.connectors.shard_store.setting_aside import open_or_set_aside
from dataflows.engine.flow_runner import FlowThread, OnDeath
from dataflows.engine.shard_boot import StartInterrupted
from dataflows.engine.shard_claims import Terms
from dataflows.engine.start_progress import StartProgress
from dataflows.engine.stop import StopSignal
from dataflows.engine.try_marks import TryMarks
from dataflows.engine.watchdog import Watchdog
from dataflows.flows.deliver import Deliver
from dataflows.flows.record import STOP_DEADLINE_MS, Record
from dataflows.flows.route import Route
from deploy.process.embedded_parts import Parts
from deploy.process.heartbeat import Heartbeat
from deploy.process.schedule_clock import ScheduleClock
from operators.shard.policy import ShardPolicy
from schemas.endpoint import RetryPolicy
from schemas.errors import HooktideError
from schemas.settings import Settings
from schemas.topics import DELIVERIES, EVENTS

EPOCH_S: Final = 1.0
"""Of Bytewax. Nothing of ours goes by it; what it costs, it costs once an epoch."""
FINISH_S: Final = 5.0
DRAIN_S: Final = 2.0
_MEMTABLE_BYTES: Final = 8 << 20
_MEMTABLE_BYTES_MIN: Final = 1 << 20
_MEMTABLES_BYTES: Final = 64 << 20
"""A quarter of the stores' common bound, as `StoreMemory` asks for."""
_JOIN_MARGIN_S: Final = 5.0
ROUTE_GROUP_MAX: Final = 64
"""Suspected events that `route` takes together: each group waits for an fsync, which `deliver` need not."""

OnPoll = Callable[[], None]
_log = structlog.get_logger("hooktide.process")


class _Flow(Protocol):
    """What `dataflows/flows` makes; only the runner knows what it builds."""

    def build(self) -> Any: ...  # noqa: ANN401


class EmbeddedFlows:
    """The flows `route`, `deliver` and `record`, each in a thread.

    Args:
        parts: what they work with.
        clock: the schedule clock, and beside it the wall clock for signatures.
        on_death: called in the thread of a flow that died.
        watchdog: told of every poll.
        has_room: while it says no, no flow begins anything new.
        rebuild: takes shards over from a lost store.

    Attributes:
        progress: how far the shards' start has come.
    """

    def __init__(
        self,
        parts: Parts,
        clock: ScheduleClock,
        on_death: OnDeath,
        watchdog: Watchdog,
        has_room: Callable[[], bool] = lambda: True,
        *,
        rebuild: bool = False,
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._on_death = on_death
        self._watchdog = watchdog
        self._has_room = has_room
        self._rebuild = rebuild
        self.progress = StartProgress()
        self._stop = StopSignal()
        self._stop_record = StopSignal()
        self._deliver: Deliver | None = None
        self._record: Record | None = None
        self._marks: dict[str, TryMarks] = {}
        self._beats: dict[str, Heartbeat] = {}
        self._threads = {
            "route": self._thread("route", self._open_route, EPOCH_S),
            "deliver": self._thread("deliver", self._open_deliver, EPOCH_S),
            "record": self._thread("record", self._open_record, EPOCH_S),
        }

    @property
    def have_begun(self) -> bool:
        """Whether every flow has been polled: stores are reconciled, work goes on."""
        return all(beat.has_begun for beat in self._beats.values())

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads.values():
            thread.start()

    def stop(self) -> bool:
        """Stops them in order; blocks until they have ended.

        Returns:
            Whether nobody uses the parts any more, so that they can be closed.
        """
        deadline_s = self._parts.settings.deliver.stop_deadline_ms / 1_000
        self._stop.request()
        has_ended = [
            self._join("route", deadline_s + _JOIN_MARGIN_S),
            self._join("deliver", deadline_s + _JOIN_MARGIN_S),
        ]
        if has_ended[1]:
            self._finish_deliver()
        self._drain()
        self._stop_record.request()
        has_ended.append(self._join("record", STOP_DEADLINE_MS / 1_000 + _JOIN_MARGIN_S))
        self._close_marks()
        return all(has_ended)

    def excuse(self) -> None:
        """Says that the process is ended on purpose: no record is to blame. Any thread."""
        for marks in tuple(self._marks.values()):
            marks.excuse()

    def _thread(self, name: str, open_flow: Callable[[OnPoll], _Flow], epoch_s: float) -> FlowThread:
        heartbeat = self._beats[name] = Heartbeat(self._watchdog, name)
        return FlowThread(
            name,
            lambda: open_flow(heartbeat.beat).build(),
            epoch_interval_s=epoch_s,
            on_death=self._note_death,
        )

    def _note_death(self, name: str, error: BaseException) -> None:
        self._beats[name].end()
        if name in self._marks:
            self._marks[name].judge(error)
        if isinstance(error, StartInterrupted) and self._stop.is_requested:
            return  # it had not begun, and ends as it was asked to
        self._on_death(name, error)

    def _join(self, name: str, timeout_s: float) -> bool:
        """Waits for a flow that was asked to end."""
        thread = self._threads[name]
        has_ended = thread.join(timeout_s)
        self._beats[name].end()
        if not has_ended:
            _log.error("flow_did_not_end", flow=name, waited_s=timeout_s)
        return has_ended

    def _finish_deliver(self) -> None:
        if self._deliver is None or self._threads["deliver"].error is not None:
            return
        try:
            self._deliver.finish(FINISH_S)
        except HooktideError as error:  # a disk that is full now; the next start reconciles
            self._on_death("deliver", error)

    def _close_marks(self) -> None:
        """Ends the marks of the flows that ended; a dead one's stay, for the next start to judge."""
        for name, marks in self._marks.items():
            if self._threads[name].is_alive:
                marks.excuse()
            elif self._threads[name].error is None:
                marks.close()

    def _open_marks(self, flow: str, topic: str, group_max: int) -> TryMarks:
        log = self._parts.log
        path = self._parts.directory.path / "tries" / flow
        marks = self._marks[flow] = TryMarks.open(
            path, topic, log.cluster_id, log.partition_count(topic), group_max=group_max
        )
        return marks

    def _drain(self) -> None:
        """Gives `record` a moment to take over what the other flows wrote at their end."""
        until_s = time.monotonic() + DRAIN_S
        while self._record is not None and self._threads["record"].is_alive and time.monotonic() < until_s:
            if self._record.is_caught_up():
                break
            time.sleep(0.01)

    def _open_route(self, on_poll: OnPoll) -> Route:
        parts = self._parts
        return Route(
            parts.log,
            parts.endpoints,
            self._stop,
            endpoint_status=parts.endpoint_status,
            beat=on_poll,
            marks=self._open_marks("route", EVENTS.name, ROUTE_GROUP_MAX),
            may_write=self._has_room,
        )

    def _open_deliver(self, on_poll: OnPoll) -> Deliver:
        parts, settings = self._parts, self._parts.settings
        count = settings.log.shards
        memory = store_memory(count, parts.descriptors.store_files_max)
        directories = {shard: parts.shard_directory(shard) for shard in range(count)}
        opened = {
            shard: open_or_set_aside(
                directory,
                shard=shard,
                shard_count=count,
                memory=memory,
                now_ms=self._clock.now_ms(),
                open_store=parts.makers.open_store,
            )
            for shard, directory in directories.items()
        }
        self._deliver = Deliver(
            log=parts.log,
            stores={shard: one.store for shard, one in opened.items()},
            endpoints=parts.endpoints,
            key_ring=parts.key_ring,
            sender=parts.sender,
            slots=parts.slots,
            policy=shard_policy(settings),
            stop=self._stop,
            clock_ms=self._clock.now_ms,
            wall_ms=self._clock.wall_ms,
            barrier_ms=settings.deliver.barrier_ms,
            user_agent=settings.egress.user_agent,
            connect_timeout_ms=settings.egress.connect_timeout_ms,
            sync_ms=settings.deliver.sync_ms,
            stop_deadline_ms=settings.deliver.stop_deadline_ms,
            outbox_bytes_max=settings.deliver.outbox_bytes_max,
            beat=on_poll,
            terms=Terms(
                rebuild=self._rebuild,
                replaced=frozenset(shard for shard, one in opened.items() if one.aside is not None),
                # The data directory is locked, and its log has no other user: an old owner is dead.
                wait_ms=0,
                directories={shard: str(directory) for shard, directory in directories.items()},
            ),
            progress=self.progress,
            marks=self._open_marks("deliver", DELIVERIES.name, 1),
            may_write=self._has_room,
        )
        for one in opened.values():
            one.settle()
        return self._deliver

    def _open_record(self, on_poll: OnPoll) -> Record:
        parts, settings = self._parts, self._parts.settings.record
        self._record = Record(
            parts.log,
            parts.delivery_log,
            self._stop_record,
            interval_ms=settings.interval_ms,
            rows_max=settings.rows_max,
            beat=on_poll,
            may_write=self._has_room,
        )
        return self._record


def store_memory(shard_count: int, open_files_max: int) -> StoreMemory:
    """Returns the memory that all shard stores share: more shards get smaller memtables, not more memory."""
    return StoreMemory(
        memtable_bytes=max(_MEMTABLE_BYTES_MIN, min(_MEMTABLE_BYTES, _MEMTABLES_BYTES // shard_count)),
        open_files_max=open_files_max,
    )


def shard_policy(settings: Settings) -> ShardPolicy:
    """Returns the limits of one shard engine."""
    deliver = settings.deliver
    return ShardPolicy(
        retry=RetryPolicy(delays_ms=settings.retry.delays_ms, window_ms=settings.retry.window_ms),
        unsaved_max=deliver.unsaved_max,
        live_max=deliver.live_max,
        live_bytes_max=deliver.live_bytes_max,
        endpoint_live_max=deliver.endpoint_live_max,
    )
