"""Publishes a shard's outbox: hands rows to the log as they are written, or reads them back when behind.

Normally a row goes from the engine straight into an append. When the log is slow or away, rows stay in the
store only, and are read from there once there is room; the same way serves a start with rows left over.
"""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter

from dataflows.connectors.log.port import Entry, TopicPartition
from dataflows.engine.ordered_appends import OrderedAppends
from operators.shard.actions import Publish
from operators.shard.engine import ShardEngine
from schemas.topics import BY_NAME, Spread

BYTES_OPEN_MAX = 32 << 20
READ_BACK_ROWS = 500


class OutboxPublisher:
    """The way of one shard's outbox into its topics. Owned by the worker thread; pumped with `appends`.

    Args:
        engine: of the shard.
        appends: shared by the shards of the process.
    """

    def __init__(self, engine: ShardEngine, appends: OrderedAppends) -> None:
        self._engine = engine
        self._appends = appends
        self._is_behind = True
        self._fed = engine.published_sequence

    @property
    def is_done(self) -> bool:
        """Whether every row written is acknowledged."""
        return not self._is_behind and self._engine.published_sequence >= self._fed

    def publish(self, rows: Sequence[Publish]) -> None:
        """Takes rows that stand in the store, in order of their sequence."""
        if self._is_behind:
            return
        if self._appends.bytes_open > BYTES_OPEN_MAX:
            self._is_behind = True
            return
        self._feed([row for row in rows if row.sequence > self._fed])

    def pump(self) -> None:
        """Reads rows back from the store, while it is behind and there is room."""
        while self._is_behind and self._appends.bytes_open <= BYTES_OPEN_MAX // 2:
            rows = self._engine.unpublished(self._fed, READ_BACK_ROWS)
            if not rows:
                self._is_behind = False
                return
            self._feed(rows)

    def _feed(self, rows: Sequence[Publish]) -> None:
        if not rows:
            return
        self._fed = rows[-1].sequence
        for topic, group in groupby(rows, key=attrgetter("topic")):
            same_topic = list(group)
            shard = self._engine.state.shard if BY_NAME[topic].spread is Spread.SHARDS else 0
            entries = [Entry(row.key, row.value) for row in same_topic]
            sequences = [row.sequence for row in same_topic]
            on_durable = partial(self._engine.acked, topic, sequences)
            self._appends.put(TopicPartition(topic, shard), entries, on_durable)
