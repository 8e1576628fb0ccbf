"""The only `StatefulBatchLogic`: hosts one shard's runtime inside Bytewax.

The key is the shard, never the endpoint: Bytewax scans every scheduled key at each activation. There is no
resume state. Bytewax's own timers and epochs are not used, because a step of the wall clock stops them:
`Tick` items bring both (see `ticker`). A barrier needs no epoch: on one worker the engine has applied
everything up to its own offset whenever it is not running.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from bytewax.operators import StatefulBatchLogic

from dataflows.engine.block_source import Block
from dataflows.engine.items import Boot, Outcomes, Sends, Tick, Wake
from dataflows.engine.shard_runtime import ShardRuntime


class ShardHost(StatefulBatchLogic[Any, Sends, None]):
    """Hosts one shard.

    Args:
        runtimes: by shard; the first item says which one this is, because Bytewax does not tell the key.
        on_tick: called with the shard of each tick that has arrived.
    """

    def __init__(self, runtimes: Mapping[int, ShardRuntime], on_tick: Callable[[int], None]) -> None:
        self._runtimes = runtimes
        self._on_tick = on_tick
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
                case Tick():
                    self._on_tick(value.shard)
                    if value.is_barrier:
                        runtime.barrier()
                case Boot():
                    pass
        return self._act()

    def on_notify(self) -> tuple[list[Sends], bool]:
        """Does nothing: nothing was scheduled."""
        return [], False

    def on_eof(self) -> tuple[list[Sends], bool]:
        """Keeps everything: a stop is no reason to flush or fire."""
        return [], False

    def notify_at(self) -> datetime | None:
        """Returns that no timer is wanted."""
        return None

    def snapshot(self) -> None:
        """Returns no state: it is in the shard's store."""

    def _act(self) -> tuple[list[Sends], bool]:
        assert self._runtime is not None, "woken before the first item"
        chosen = self._runtime.act()
        return ([Sends(self._runtime.engine.state.shard, chosen)] if chosen else []), False
