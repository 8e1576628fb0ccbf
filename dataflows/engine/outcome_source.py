"""The source that closes the loop: outcomes of the sender, by shard, and whatever else wakes one.

Bytewax knows no cycles, so outcomes come back through a queue in the process, read here within a millisecond
or two. Time comes in here, too, as ticks. At a stop this source lives longest: until nothing is in flight, or
the deadline has passed.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from bytewax.inputs import DynamicSource, StatelessSourcePartition

from dataflows.connectors.log.port import TopicPartition
from dataflows.connectors.sender.port import Sender
from dataflows.engine.block_source import LONG_AGO, shard_key
from dataflows.engine.items import Outcomes, Tick, Wake
from dataflows.engine.slots import Slots
from dataflows.engine.stop import StopSignal
from schemas import topics
from schemas.ids import partition_of
from schemas.outcome import Outcome

BUSY_S = 0.004
IDLE_S = 0.004
"""Outcomes gather this long: a batch of ten costs little more than a batch of one, and the promise about
repeats after a crash allows 5 ms for it."""


class OutcomeSource(DynamicSource[tuple[str, Any]]):
    """Emits `(shard key, Outcomes | Wake | Tick)`.

    Args:
        sender: whose outcomes are collected.
        slots: tell which shards wait for one, and when nothing is in flight any more.
        stop: ends the source, once nothing is in flight.
        shard_count: to find an endpoint's shard.
        on_poll: runs at every poll: acknowledgements, table views, watchdog.
        deadline: called at each poll of a stop; True ends it although something is in flight.
        ticks: called at each poll; returns what the time makes due.
    """

    def __init__(
        self,
        sender: Sender,
        slots: Slots,
        stop: StopSignal,
        shard_count: int,
        on_poll: Callable[[], None],
        deadline: Callable[[], bool],
        ticks: Callable[[], Iterable[Tick]],
    ) -> None:
        self.sender = sender
        self.slots = slots
        self.stop = stop
        self.shard_count = shard_count
        self.on_poll = on_poll
        self.deadline = deadline
        self.ticks = ticks
        self.changed_endpoints: deque[str] = deque()

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "OutcomePolls":
        """Called by Bytewax in the flow's thread."""
        assert (worker_index, worker_count) == (0, 1), f"{step_id} runs on one worker, not on {worker_count}"
        return OutcomePolls(self)


class OutcomePolls(StatelessSourcePartition[tuple[str, Any]]):
    """The running half of an `OutcomeSource`."""

    def __init__(self, source: OutcomeSource) -> None:
        self._source = source
        self._is_cut_off = False

    def next_batch(self) -> list[tuple[str, Any]]:
        """Returns what has come since.

        Raises:
            StopIteration: a stop was requested and nothing is in flight.
        """
        source = self._source
        # Slept here and not by `next_awake`: Bytewax's own waiting wakes up a thousand times a second.
        time.sleep(BUSY_S if source.slots.taken else IDLE_S)
        source.on_poll()
        items = self._outcomes(source.sender.collect())
        items.extend(self._wakes())
        if source.stop.is_requested and not items:
            if not source.slots.taken:
                raise StopIteration
            if not self._is_cut_off and source.deadline():
                self._is_cut_off = True
                source.sender.close(0.0)
        items.extend([(_key(tick.shard), tick) for tick in source.ticks()])
        return items

    def next_awake(self) -> datetime:
        """Returns when to poll again: at once, the pause is in the poll."""
        return LONG_AGO

    def _outcomes(self, outcomes: Sequence[Outcome]) -> list[tuple[str, Any]]:
        by_shard: dict[int, list[Outcome]] = {}
        for outcome in outcomes:
            by_shard.setdefault(outcome.token[0], []).append(outcome)
        return [(_key(shard), Outcomes(shard, group)) for shard, group in by_shard.items()]

    def _wakes(self) -> list[tuple[str, Any]]:
        source = self._source
        by_shard: dict[int, list[str]] = {}
        if source.slots.hungry and source.slots.free:
            hungry, source.slots.hungry = source.slots.hungry, set()
            by_shard = {shard: [] for shard in hungry}
        while source.changed_endpoints:
            endpoint_id = source.changed_endpoints.popleft()
            by_shard.setdefault(partition_of(endpoint_id, source.shard_count), []).append(endpoint_id)
        return [(_key(shard), Wake(shard, ids)) for shard, ids in by_shard.items()]


def _key(shard: int) -> str:
    return shard_key(TopicPartition(topics.DELIVERIES.name, shard))
