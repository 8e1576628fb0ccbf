"""The group commit: one thread turns queued appends into one synced batch, then shows and acknowledges them.

An fsync costs 0.2 to 1 ms whatever it carries, so appends share it. A lone append is committed at once; when
the last group had company the thread waits up to the linger for more. While it syncs, the next group gathers
by itself.

The order is the promise: write and fsync, then move the ends (readers see the records), then call back. Ends
and times are changed by this thread only, and only after the batch is durable, so a failed write leaves
nothing to undo: its offsets go to the next append.

Rejected: an fsync per append (3,800/s); several commit threads (RocksDB has one write-ahead log, and
partitions would need locks); futures (a block needs one callback).
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from rocksdict import WriteBatch

from dataflows.connectors.log import local_database
from dataflows.connectors.log.local_chain import Chain
from dataflows.connectors.log.local_compaction import Compaction
from dataflows.connectors.log.local_database import Database
from dataflows.connectors.log.local_keys import (
    PartitionState,
    encode_record,
    encode_state,
    pack_u64,
    state_key,
)
from dataflows.connectors.log.port import Appended, Entry, OnAppended
from schemas.errors import DiskFull, HooktideError, LogUnavailable

GROUP_BYTES_MAX = 4 << 20
"""A larger group would only make its first append wait longer."""
QUEUE_BYTES_MAX = 256 << 20
"""What may wait while the disk is slow; beyond it appends are refused instead of filling the memory."""
_ENTRY_BYTES = 64


class Change(NamedTuple):
    """A write that is no append (group positions, retention): first rows into the batch, then memory."""

    write: Callable[[WriteBatch], None]
    applied: Callable[[], None]


class _Queued(NamedTuple):
    state: PartitionState | None
    entries: Sequence[Entry]
    change: Change | None
    on_done: OnAppended
    size_bytes: int
    refused: bool = False


class Committer:
    """Owns the commit thread. Any thread may call `append` and `run`.

    Args:
        clock_ms: returns the time now, ms UTC; stamped once per group.
        linger_ms: how long a group waits for company; 0 never waits.
    """

    def __init__(
        self, database: Database, chain: Chain, clock_ms: Callable[[], int], linger_ms: float
    ) -> None:
        self._database = database
        self._chain = chain
        self._clock_ms = clock_ms
        self._linger_s = linger_ms / 1_000
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._wake = threading.Condition(threading.Lock())
        self._closing = False
        self._crashed = False
        self._had_company = False
        self._thread = threading.Thread(target=self._run, name="local-log-commit", daemon=True)
        self._thread.start()

    def append(self, state: PartitionState, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        """Queues an append; `on_appended` is called from the commit thread.

        Raises:
            LogUnavailable: the log is closed.
        """
        size = sum([_ENTRY_BYTES + len(key or b"") + len(value or b"") for key, value in entries])
        self._put(_Queued(state, entries, None, on_appended, size))

    def run(self, change: Change, timeout_s: float) -> None:
        """Queues a change and waits until it is durable and applied.

        Raises:
            LogUnavailable: not known to be durable.
        """
        answer = Answer(self)
        self._put(_Queued(None, (), change, answer, 0))
        answer.wait(timeout_s)

    def is_own_thread(self) -> bool:
        """Returns whether the caller is the commit thread, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Commits what is queued, then ends the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _put(self, queued: _Queued) -> None:
        with self._wake:
            if self._closing or self._crashed:
                raise LogUnavailable(
                    "the log is closed" if self._closing else "the log's commit thread has crashed"
                )
            if self._queued_bytes + queued.size_bytes > QUEUE_BYTES_MAX:
                queued = queued._replace(entries=(), size_bytes=0, refused=True)
            was_full = self._queued_bytes >= GROUP_BYTES_MAX
            self._queue.append(queued)
            self._queued_bytes += queued.size_bytes
            # The thread waits for the first of a group, or for a full group; nothing between concerns it.
            if len(self._queue) == 1 or (not was_full and self._queued_bytes >= GROUP_BYTES_MAX):
                self._wake.notify()

    def _run(self) -> None:
        group: deque[_Queued] = deque()
        try:
            while group := self._next_group():
                self._commit(group)
        except (
            BaseException
        ):  # a bug of ours, or of a callback: nobody may wait for ever, and nobody may miss it
            with self._wake:
                self._crashed = True
                left = [*group, *self._queue]
                self._queue.clear()
            for queued in left:
                with suppress(Exception):  # the one that crashed us may do it again
                    queued.on_done(LogUnavailable("the log's commit thread has crashed; restart the process"))
            raise

    def _next_group(self) -> deque[_Queued]:
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._closing)
            if self._had_company and self._linger_s > 0:
                self._wake.wait_for(
                    lambda: self._queued_bytes >= GROUP_BYTES_MAX or self._closing, self._linger_s
                )
            group: deque[_Queued] = deque()
            size = 0
            while self._queue and size < GROUP_BYTES_MAX:
                queued = self._queue.popleft()
                size += queued.size_bytes
                group.append(queued)
            self._queued_bytes -= size
            self._had_company = len(group) > 1
            return group

    def _commit(self, group: deque[_Queued]) -> None:
        """Writes a group and answers it; who is answered leaves the group, so nobody is answered twice."""
        batch = self._database.batch()
        compaction = Compaction(self._database, batch)
        meta = self._database.handles[local_database.META]
        now_ms = self._clock_ms()
        moved: dict[bytes, tuple[PartitionState, int, int]] = {}
        answers: list[Appended | HooktideError] = []
        for queued in group:
            if queued.refused:
                answers.append(
                    LogUnavailable(f"{QUEUE_BYTES_MAX >> 20} MiB of appends wait for the disk already")
                )
                continue
            if queued.change is not None:
                queued.change.write(batch)
            state = queued.state
            if state is None:
                answers.append(Appended(0, now_ms))
                continue
            _, first, time_ms = moved.get(state.prefix) or (state, state.end, max(state.last_ms, now_ms))
            _put_records(batch, state.prefix, first, time_ms, queued.entries)
            if state.retention_ms is None:
                compaction.add(state, first, time_ms, queued.entries)
            moved[state.prefix] = state, first + len(queued.entries), time_ms
            answers.append(Appended(first, time_ms))
        for state, end, time_ms in moved.values():
            batch.put(state_key(state.prefix), encode_state(state, end, time_ms), meta)
        try:
            self._chain.link(batch)
            self._database.write(batch)
        except HooktideError as error:
            while group:
                group.popleft().on_done(error)
            return
        self._chain.linked()
        for state, end, time_ms in moved.values():
            state.last_ms = time_ms
            state.end = end
        for answer in answers:
            queued = group.popleft()
            if queued.change is not None:
                queued.change.applied()
            queued.on_done(answer)


class Answer:
    """Turns the callback into something to wait for."""

    __slots__ = ("_answer", "_arrived")

    def __init__(self, committer: Committer) -> None:
        assert not committer.is_own_thread(), "the log's own thread would wait for itself"
        self._arrived = threading.Event()
        self._answer: Appended | HooktideError | None = None

    def __call__(self, answer: Appended | HooktideError) -> None:
        """Takes the answer, on the commit thread."""
        self._answer = answer
        self._arrived.set()

    def wait(self, timeout_s: float) -> Appended:
        """Returns the answer.

        Raises:
            LogUnavailable: none came in time, or it was a failure.
        """
        if not self._arrived.wait(timeout_s) or self._answer is None:
            raise LogUnavailable(
                f"the log did not acknowledge within {timeout_s} s; the write may or may not happen"
            )
        if isinstance(self._answer, HooktideError):
            failure = DiskFull if isinstance(self._answer, DiskFull) else LogUnavailable
            raise failure(str(self._answer)) from self._answer
        return self._answer


def _put_records(
    batch: WriteBatch, prefix: bytes, first_offset: int, timestamp_ms: int, entries: Sequence[Entry]
) -> None:
    put = batch.put
    for offset, (key, value) in enumerate(entries, first_offset):
        put(prefix + pack_u64(offset), encode_record(timestamp_ms, key, value))
