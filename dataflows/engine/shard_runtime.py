"""One shard as a process runs it: the engine with its publisher, its slots and its clock. Knows no Bytewax.

Every activation ends the same way: timers fire, work is chosen while there are slots, rows go to their
topics.
"""

from collections.abc import Callable, Sequence

from dataflows.engine.barrier import BackgroundSync
from dataflows.engine.outbox_publisher import OutboxPublisher
from dataflows.engine.slots import Slots
from dataflows.engine.stop import StopSignal
from operators.shard.actions import Dispatch
from operators.shard.engine import ShardEngine
from schemas.outcome import Outcome

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

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Writes outcomes, then frees their slots."""
        self.engine.settle(outcomes, self._clock_ms())
        self._slots.release(len(outcomes))

    def accept(self, records: Sequence[tuple[int, int, bytes | None, bytes | None]]) -> None:
        """Takes a block of the log."""
        self.engine.accept(records, self._clock_ms())

    def act(self) -> list[Dispatch]:
        """Fires timers, publishes, and chooses what to send; the slots of what it returns are taken."""
        engine = self.engine
        now_ms = self._clock_ms()
        while engine.next_timer_at_ms() <= now_ms and engine.fire_timers(now_ms):
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

    def next_at_ms(self, heartbeat_ms: int) -> int:
        """Returns when the shard wants to be looked at again, at most a heartbeat ahead."""
        return min(self.engine.next_timer_at_ms(), self._clock_ms() + heartbeat_ms)
