"""One shard as a process runs it: the engine with its publisher, its slots and its clock. Knows no Bytewax.

Every activation ends the same way: timers fire, work is chosen while there are slots, rows go to their
topics.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from dataflows.engine.barrier import BackgroundSync
from dataflows.engine.outbox_publisher import OutboxPublisher
from dataflows.engine.slots import Slots
from dataflows.engine.stop import StopSignal
from operators.shard.actions import Dispatch
from operators.shard.engine import ShardEngine
from operators.suspicion import Phase, run_length
from schemas.outcome import Outcome

T = TypeVar("T")

BLOCK_MAX = 256
"""Deliveries chosen per activation: keeps one shard's turn short beside the others'."""


class ShardRuntime:
    """Drives one shard's engine. Owned by the worker thread of `deliver`.

    Args:
        engine: reconciled and started.
        publisher: of its outbox.
        slots: of the process.
        stop: once requested, nothing new starts.
        sync: mirrors its barriers.
        clock_ms: milliseconds UTC.
        outbox_rows_max: rows that may wait for their topics; beyond them no attempt starts.

    Attributes:
        timer_at_ms: when the shard wants to act by itself, as of its last act.
    """

    def __init__(
        self,
        engine: ShardEngine,
        publisher: OutboxPublisher,
        slots: Slots,
        stop: StopSignal,
        sync: BackgroundSync,
        clock_ms: Callable[[], int],
        outbox_rows_max: int,
    ) -> None:
        self.engine = engine
        self.publisher = publisher
        self._slots = slots
        self._stop = stop
        self._sync = sync
        self._clock_ms = clock_ms
        self._outbox_rows_max = outbox_rows_max
        self.timer_at_ms = 0

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Writes outcomes, then frees their slots."""
        tries = self.engine.state.tries
        for block in self._runs(outcomes, [outcome.token[1] for outcome in outcomes]):
            tries.begin(Phase.SETTLE, [outcome.token[1] for outcome in block])
            self.engine.settle(block, self._clock_ms())
            tries.done()
            self._slots.release(len(block))

    def accept(self, records: Sequence[tuple[int, int, bytes | None, bytes | None]]) -> None:
        """Takes a block of the log; suspects by themselves, parked records not at all."""
        tries = self.engine.state.tries
        if not tries.is_wary:
            self.engine.accept(records, self._clock_ms())
            return
        for block in self._runs(records, [record[0] for record in records]):
            if block[0][0] in tries.parked:
                self.engine.park(block[0], self._clock_ms())
            else:
                self.engine.accept(block, self._clock_ms())

    def _runs(self, items: Sequence[T], offsets: Sequence[int]) -> Iterator[Sequence[T]]:
        """Cuts a block into what may be taken together."""
        tries = self.engine.state.tries
        if not tries.is_wary:
            yield items
            return
        groups = [tries.group(offset) for offset in offsets]
        start = 0
        while start < len(items):
            end = start + run_length(groups[start:])
            yield items[start:end]
            start = end

    def act(self) -> list[Dispatch]:
        """Fires timers, publishes, and chooses what to send; the slots of what it returns are taken."""
        engine = self.engine
        now_ms = self._clock_ms()
        # A timer that fires is written down, and what it sets free could not be sent: it fires later.
        while self._slots.is_open and engine.next_timer_at_ms() <= now_ms and engine.fire_timers(now_ms):
            pass
        chosen: list[Dispatch] = []
        if not self._stop.is_requested and self.outbox_backlog < self._outbox_rows_max:
            free = self._slots.free
            if free > 0:
                chosen = engine.next_block(now_ms, min(free, BLOCK_MAX))
                self._slots.take(len(chosen))
            if engine.has_work:
                self._slots.hungry.add(engine.state.shard)
        self.publisher.publish(engine.take_publishes())
        self.publisher.pump()
        self.timer_at_ms = engine.next_timer_at_ms()
        return chosen

    @property
    def outbox_backlog(self) -> int:
        """Rows that their topics have not acknowledged."""
        return self.engine.state.sequence - self.engine.published_sequence

    def barrier(self) -> None:
        """Writes a barrier; clean when a stop was requested and nothing is in flight."""
        self._sync.check()
        self.engine.review_held(self._clock_ms())
        is_clean = self._stop.is_requested and not self.engine.state.in_flight_count
        mark = self.engine.barrier(is_clean=is_clean)
        if mark is not None:
            self._sync.note(self.engine.state.shard, mark)
