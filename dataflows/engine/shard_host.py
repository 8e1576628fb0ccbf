"""The only `StatefulBatchLogic`: hosts one shard's runtime inside Bytewax.

The key is the shard, never the endpoint: Bytewax scans every scheduled key at each activation. There is no
resume state: `snapshot` is the barrier, and its answer is nothing.

Spurious notifications are normal (Bytewax does not cancel an earlier schedule), so `on_notify` only looks
again. The heartbeat of half a second bounds what Bytewax leaks per activation until the soonest timer, and
makes sure that every shard is awake in every epoch: only those take part in the barrier.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bytewax.operators import StatefulBatchLogic

from dataflows.engine.block_source import Block
from dataflows.engine.items import Boot, Outcomes, Sends, Wake
from dataflows.engine.shard_runtime import ShardRuntime

HEARTBEAT_MS = 500
TIMER_QUANTUM_MS = 10
"""Timers that follow one another closer than this share an activation."""


class ShardHost(StatefulBatchLogic[Any, Sends, None]):
    """Hosts one shard.

    Args:
        runtimes: by shard; the first item says which one this is, because Bytewax does not tell the key.
    """

    def __init__(self, runtimes: Mapping[int, ShardRuntime]) -> None:
        self._runtimes = runtimes
        self._runtime: ShardRuntime | None = None

    def on_batch(self, values: list[Any]) -> tuple[list[Sends], bool]:
        """Applies what came, in order, then acts."""
        runtime = self._runtime
        for value in values:
            if runtime is None:
                shard = value.partition if isinstance(value, Block) else value.shard
                runtime = self._runtime = self._runtimes[shard]
            match value:
                case Outcomes():
                    runtime.settle(value.outcomes)
                case Block():
                    runtime.accept(value.records)
                case Wake():
                    for endpoint_id in value.endpoint_ids:
                        runtime.engine.wake(endpoint_id)
                case Boot():
                    pass
        return self._act()

    def on_notify(self) -> tuple[list[Sends], bool]:
        """Looks again."""
        return self._act()

    def on_eof(self) -> tuple[list[Sends], bool]:
        """Keeps everything: a stop is no reason to flush or fire."""
        return [], False

    def notify_at(self) -> datetime | None:
        """Returns the next timer, at most a heartbeat ahead."""
        assert self._runtime is not None, "asked for a timer before the first item"
        at_ms = self._runtime.next_at_ms(HEARTBEAT_MS)
        return datetime.fromtimestamp(
            (at_ms + TIMER_QUANTUM_MS) // TIMER_QUANTUM_MS * TIMER_QUANTUM_MS / 1_000, UTC
        )

    def snapshot(self) -> None:
        """Writes the barrier of this epoch."""
        if self._runtime is not None:
            self._runtime.barrier()

    def _act(self) -> tuple[list[Sends], bool]:
        assert self._runtime is not None, "woken before the first item"
        chosen = self._runtime.act()
        return ([Sends(self._runtime.engine.state.shard, chosen)] if chosen else []), False
