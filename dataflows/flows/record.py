"""The `record` dataflow: events, deliveries, transitions and dead letters into the delivery log.

    events, deliveries, transitions, dead_letters ─ read ─ write ─> ClickHouse

Its position is the offset of group `record`, committed after the insert. What was inserted and not committed
is recognised by the recording, so every record is in the log once in effect.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from dataflows.connectors.delivery_log.port import DeliveryLog
from dataflows.connectors.delivery_log.recording import RECORDED_TOPICS, Recording
from dataflows.connectors.log.port import Log, TopicPartition
from dataflows.engine.batch_writer import BatchWriter, WriteCounts
from dataflows.engine.block_source import LogBlockSource, SourceHooks
from dataflows.engine.positions import go_on_at_start, start_positions
from dataflows.engine.stop import StopSignal

FLOW = "record"
GROUP = "record"
STOP_DEADLINE_MS = 5_000
PAUSE_MS = 20
"""Rows wait for company much longer than this."""


class Record:
    """The parts of one record process, and the flow over them.

    Args:
        log: topics.
        delivery_log: where the rows go.
        stop: ends the flow.
        rows_max: of one insert.
        interval_ms: how long a record may wait for others, milliseconds.
        beat: called at every poll, for the watchdog.
        stop_deadline_ms: how long a stop waits for the last insert; what is missing then is read again.
        may_write: while it says no, nothing new is read (the disk is nearly full).
    """

    def __init__(
        self,
        log: Log,
        delivery_log: DeliveryLog,
        stop: StopSignal,
        *,
        rows_max: int,
        interval_ms: int,
        beat: Callable[[], None] = lambda: None,
        stop_deadline_ms: int = STOP_DEADLINE_MS,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._log = log
        self._stop = stop
        self._beat = beat
        self._may_write = may_write
        self._stop_deadline_s = stop_deadline_ms / 1_000
        self._stop_began_s: float | None = None
        partitions = [
            TopicPartition(topic.name, number)
            for topic in RECORDED_TOPICS
            for number in range(log.partition_count(topic.name))
        ]
        self._positions: Mapping[TopicPartition, int] = start_positions(log, GROUP, partitions)
        self._writer = BatchWriter(
            log,
            GROUP,
            Recording(delivery_log, log.cluster_id),
            self._positions,
            rows_max=rows_max,
            interval_ms=interval_ms,
        )

    @property
    def counts(self) -> WriteCounts:
        """What was written since the start."""
        return self._writer.counts

    def is_caught_up(self) -> bool:
        """Whether everything that stands in the topics now is in the delivery log; any thread may ask."""
        written = self._writer.written
        return all(self._log.end(of) <= written[of] for of in self._positions)

    def build(self) -> Dataflow:
        """Returns the dataflow; run it once."""
        hooks = SourceHooks(
            has_credit=lambda _: self._writer.has_room and self._may_write(),
            on_poll=self._on_poll,
            may_end=self._may_end,
            on_end=self._writer.abort,
            on_out_of_range=lambda error: go_on_at_start(error, GROUP),
        )
        self._writer.start()
        flow = Dataflow(FLOW)
        source = LogBlockSource(self._log.reader, self._positions, self._stop, hooks, pause_ms=PAUSE_MS)
        blocks = op.input("read", flow, source)
        op.output("write", blocks, WriteSink(self._writer))
        return flow

    def _on_poll(self) -> None:
        self._beat()
        self._writer.check()

    def _may_end(self) -> bool:
        now_s = time.monotonic()
        if self._stop_began_s is None:
            self._stop_began_s = now_s
            self._writer.finish()
        return self._writer.is_done or now_s - self._stop_began_s >= self._stop_deadline_s


class WriteSink(DynamicSink[tuple[str, Any]]):
    """Hands blocks to the writer."""

    def __init__(self, writer: BatchWriter) -> None:
        self._writer = writer

    def build(
        self, step_id: str, worker_index: int, worker_count: int
    ) -> StatelessSinkPartition[tuple[str, Any]]:
        """Called by Bytewax in the flow's thread."""
        del step_id, worker_index, worker_count
        return _Writing(self._writer)


class _Writing(StatelessSinkPartition[tuple[str, Any]]):
    def __init__(self, writer: BatchWriter) -> None:
        self._writer = writer

    def write_batch(self, items: list[tuple[str, Any]]) -> None:
        for _, block in items:
            self._writer.put(block)
