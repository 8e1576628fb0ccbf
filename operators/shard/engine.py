"""The shard engine: one shard's deliveries, from the record in `deliveries` to the final state.

State and time go in, values come out: what to send (`Dispatch`), what to publish (`Publish`), what to mirror
(`BarrierMark`). The engine owns the shard's store; whoever hosts it owns the clock, the log, the sender and
the slots. Bytewax hosts it in production, a virtual-time world in the simulation.

The life of a delivery: `accept` takes it from the log; `next_block` chooses it; the host sends it; `settle`
writes what came of it. What is not finished at a `barrier` is written there; so the common path, a success
within a second, costs one row in `seen` and one in `outbox`.
"""

from collections.abc import Sequence

from operators.shard.accept import WorkRecord, accept
from operators.shard.actions import BarrierMark, Dispatch, Publish
from operators.shard.barrier import Barrier
from operators.shard.dispatch import next_block, review_held
from operators.shard.outbox import OutboxProgress
from operators.shard.park import park_record
from operators.shard.policy import ShardPolicy
from operators.shard.reconcile import Reconcile
from operators.shard.settle import settle
from operators.shard.state import EndpointView, ShardState
from operators.shard.store_port import Family, ShardStore
from operators.shard.timers import DueTimers
from schemas.outcome import Outcome
from schemas.wire import store_keys
from schemas.wire.store_rows import OUTBOX_ROW


class ShardEngine:
    """One shard. Used by one thread.

    Args:
        shard: its number.
        epoch: of this owner, from its claim; higher than that of every owner before.
        store: the shard's own.
        endpoints: a view of the endpoints; `wake` tells of its changes.
        policy: limits and defaults.

    Start it with `reconcile` (note the dead letters, redo, then `start`); use nothing else before.
    """

    def __init__(
        self, shard: int, epoch: int, store: ShardStore, endpoints: EndpointView, policy: ShardPolicy
    ) -> None:
        self.state = ShardState(shard, epoch, store, endpoints, policy)
        self.reconcile = Reconcile(self.state)
        self._timers = DueTimers(self.state)
        self._outbox = OutboxProgress(0, {})
        self._barrier = Barrier(self.state, self._outbox, None)

    def start(self, deliveries_offset: int, deliveries_end: int, ends: dict[str, int]) -> BarrierMark | None:
        """Ends the reconciliation: from here on the engine takes work.

        Args:
            deliveries_offset: where consumption goes on: the store's position, or what a person set instead.
            deliveries_end: the end of `deliveries` now; what lies below may have been sent by a crashed
                owner.
            ends: by topic, the position up to which its records were redone or noted.
        """
        position = self.reconcile.position
        self.state.next_offset = deliveries_offset
        is_clean = position is not None and position.is_clean and not self.reconcile.redone_count
        self.state.resend_below = 0 if is_clean else deliveries_end
        self._outbox = self.reconcile.finish(ends)
        self._barrier = Barrier(self.state, self._outbox, position)
        return self._barrier.write()

    def accept(self, records: Sequence[WorkRecord], now_ms: int) -> None:
        """Takes a block of `deliveries`, in log order."""
        accept(self.state, self._timers, records, now_ms)

    def park(self, record: WorkRecord, now_ms: int) -> None:
        """Takes the next record of `deliveries`, which has killed too often, without working on it."""
        park_record(self.state, record, now_ms)

    def next_block(self, now_ms: int, slots_free: int) -> list[Dispatch]:
        """Returns what to send now; every dispatch must come back through `settle`."""
        return next_block(self.state, now_ms, slots_free)

    def settle(self, outcomes: Sequence[Outcome], now_ms: int) -> None:
        """Writes what the attempts came to; the caller frees their slots when it returns."""
        settle(self.state, self._timers, outcomes, now_ms)

    def fire_timers(self, now_ms: int) -> int:
        """Makes ready whatever is due; returns how many deliveries."""
        return self._timers.fire(now_ms)

    def next_timer_at_ms(self) -> int:
        """Returns when `fire_timers` has something to do."""
        return self._timers.next_at_ms()

    def wake(self, endpoint_id: str) -> None:
        """Looks again at an endpoint whose record changed."""
        self.state.tidy_endpoint_row(endpoint_id)
        self.state.wake(endpoint_id)

    def review_held(self, now_ms: int) -> None:
        """Ends what has waited too long for held endpoints; about once a second."""
        review_held(self.state, now_ms)

    def barrier(self, *, is_clean: bool = False) -> BarrierMark | None:
        """Writes a barrier. `is_clean` only when nothing is in flight and nothing will be."""
        return self._barrier.write(is_clean=is_clean)

    def take_publishes(self) -> list[Publish]:
        """Returns the outbox rows written since the last call."""
        publishes, self.state.publishes = self.state.publishes, []
        return publishes

    def acked(self, topic: str, sequences: Sequence[int], first_offset: int) -> None:
        """Takes notice that these rows stand durably in their topic."""
        self._outbox.acked(topic, sequences, first_offset)

    def unpublished(self, after_sequence: int, limit: int) -> list[Publish]:
        """Returns outbox rows from the store, for publishing again after a start or a failure."""
        start = store_keys.outbox_key(max(after_sequence, self._outbox.published_sequence) + 1)
        publishes = []
        for key, raw in self.state.store.scan(Family.OUTBOX, start, b"\xff" * 9, limit):
            row = OUTBOX_ROW.decode(raw)
            publishes.append(Publish(store_keys.parse_outbox_key(key), row.topic, row.key, row.value))
        return publishes

    @property
    def published_sequence(self) -> int:
        """Every outbox row up to it is acknowledged."""
        return self._outbox.published_sequence

    @property
    def has_work(self) -> bool:
        """Whether something could be sent if there were slots."""
        return bool(self.state.active)
