"""The last step of a flow that makes many records of one: blocks go to the outflow, entries to the log.

Both are where the tries of such a flow are marked: a block is open from here until it is acknowledged, and
what dies of an append may be any block that is open. See `dataflows/engine/try_marks.py`.
"""

from collections.abc import Sequence
from typing import Any

from bytewax.outputs import DynamicSink, StatelessSinkPartition

from dataflows.connectors.log.port import Entry, Log, OnAppended, TopicPartition
from dataflows.engine.outflow import Outflow
from dataflows.engine.try_marks import TryMarks
from operators.suspicion import Phase
from schemas.errors import HooktideError


class AppendSink(DynamicSink[Any]):
    """Hands `(block, batches of addressed entries)` to the outflow."""

    def __init__(self, outflow: Outflow, marks: TryMarks) -> None:
        self._outflow = outflow
        self._marks = marks

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Any]:
        """Called by Bytewax in the flow's thread."""
        del step_id, worker_index, worker_count
        return _Appending(self._outflow, self._marks)


class _Appending(StatelessSinkPartition[Any]):
    def __init__(self, outflow: Outflow, marks: TryMarks) -> None:
        self._outflow = outflow
        self._marks = marks

    def write_batch(self, items: list[Any]) -> None:
        for block, batches in items:
            self._marks.opened(block.of, block.records[0].offset, block.next_offset)
            self._outflow.take(block, batches)
            self._marks.leave()


class MarkedLog:
    """The log as `OrderedAppends` sees it, with a mark around every append: of whatever is open."""

    def __init__(self, log: Log, marks: TryMarks) -> None:
        self._log = log
        self._marks = marks

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        """Appends, as `Log.append` does."""
        self._marks.begin_open(Phase.APPEND)
        try:
            self._log.append(to, entries, on_appended)
        except HooktideError:  # it goes on, and tries again
            self._marks.leave()
            raise
        self._marks.leave()
