"""The thread of a sender: its event loop, the hand-over of blocks in both directions, and its end.

Any client that speaks HTTP on an event loop (`Carrier`) becomes a `Sender` here. A block of requests
crosses with one `call_soon_threadsafe`, and none at all while an earlier one is still on its way: waking a
loop costs a system call (about 10 us), a deque costs nothing. Outcomes gather in a deque, whose ends are
thread-safe, until they are collected.

The promise that every request comes back exactly once is kept in one place each: a carrier calls `done`
once per start, what cannot be started comes back as `our_fault`, what comes too late as `our_shutdown`.

Rejected: `run_coroutine_threadsafe` per request (a lock, a future and a wake-up each), and a `queue.Queue`
(its lock is taken twice per outcome).
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog
import uvloop

from schemas.errors import Unavailable
from schemas.outcome import ErrorCode, Outcome, PreparedRequest

SWEEP_S: Final = 0.25
"""How late a deadline may be noticed. A timer per request costs 2-4 us; a pass over 5,000 requests costs 70
us."""
_START_TIMEOUT_S: Final = 30.0
_END_MARGIN_S: Final = 5.0

_log = structlog.get_logger()

OnDone = Callable[[Outcome], None]


class Carrier(Protocol):
    """Carries requests on the loop's thread; every method is called there."""

    def start(self, request: PreparedRequest) -> None:
        """Starts one; `done` is called once for it."""

    def sweep(self) -> None:
        """Ends what is past its deadline; called every `SWEEP_S`."""

    def abort(self, code: ErrorCode, detail: str) -> None:
        """Calls `done` with this for everything that is still in flight."""

    async def close(self) -> None:
        """Frees connections; nothing is in flight any more."""


class SenderLoop:
    """A `Sender` over any carrier.

    Submitting and collecting may happen in two threads, but each in one.

    Args:
        open_carrier: called on the loop's thread with the function that takes outcomes.

    Raises:
        Unavailable: the carrier could not be opened.
    """

    def __init__(self, open_carrier: Callable[[OnDone], Awaitable[Carrier]], name: str) -> None:
        self._open_carrier = open_carrier
        self._outcomes: deque[Outcome] = deque()
        self._submitted_count = 0
        self._collected_count = 0
        self._lock = threading.Lock()  # guards the three below
        self._blocks: list[Sequence[PreparedRequest]] = []
        self._is_wake_up_sent = False
        self._close_by_s: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._carrier: Carrier | None = None
        self._carried_count = 0
        self._changed: asyncio.Event | None = None
        self._started = threading.Event()
        self._start_error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        if not self._started.wait(_START_TIMEOUT_S):
            raise Unavailable(f"the thread {name} did not start within {_START_TIMEOUT_S:g} s")
        if self._start_error is not None:
            raise Unavailable(f"the sender could not be opened: {self._start_error}") from self._start_error

    def submit(self, requests: Sequence[PreparedRequest]) -> None:
        """Starts all of them; returns at once. After `close` they come back as `our_shutdown`."""
        if not requests:
            return
        self._submitted_count += len(requests)
        with self._lock:
            is_closed = self._close_by_s is not None
            needs_wake_up = not is_closed and not self._is_wake_up_sent
            if not is_closed:
                self._blocks.append(requests)
                self._is_wake_up_sent = True
        if is_closed:
            self._outcomes.extend(
                [unsent(request, ErrorCode.OUR_SHUTDOWN, "We were stopping.") for request in requests]
            )
        elif needs_wake_up:
            self._wake_up(self._take_blocks)

    def collect(self, outcomes_max: int = 1_000) -> list[Outcome]:
        """Returns outcomes that have arrived since; empty when there is none. Never blocks."""
        take = self._outcomes.popleft
        collected = [take() for _ in range(min(outcomes_max, len(self._outcomes)))]
        self._collected_count += len(collected)
        return collected

    @property
    def in_flight_count(self) -> int:
        """How many were submitted and not yet collected."""
        return self._submitted_count - self._collected_count

    @property
    def is_alive(self) -> bool:
        """Whether requests are still carried."""
        return self._thread.is_alive()

    def close(self, deadline_s: float) -> None:
        """Waits up to `deadline_s` for what is in flight, ends the rest as `our_shutdown`, frees all."""
        with self._lock:
            is_first = self._close_by_s is None
            if is_first:
                self._close_by_s = time.monotonic() + deadline_s
        if is_first:
            self._wake_up(self._notice_change)
        self._thread.join(deadline_s + _END_MARGIN_S)
        if self._thread.is_alive():
            _log.error("sender_thread_stuck", thread=self._thread.name)

    def _wake_up(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # The loop is closed: its thread took everything with it, see the end of `_run`.
            self._end_blocks()

    def _run(self) -> None:
        """The thread: never ends without having answered for every request."""
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - a thread has nobody above it to raise to
            if not self._started.is_set():
                self._start_error = error
                return
            _log.exception("sender_thread_died")
            if self._carrier is not None:
                self._carrier.abort(ErrorCode.OUR_FAULT, "The sender's thread ended.")
        finally:
            with self._lock:
                self._close_by_s = self._close_by_s or time.monotonic()
            self._end_blocks()
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._carrier = carrier = await self._open_carrier(self._on_done)
        self._started.set()
        try:
            while not self._is_finished():
                self._changed.clear()
                try:
                    async with asyncio.timeout(self._seconds_to_next_look()):
                        await self._changed.wait()
                except TimeoutError:
                    carrier.sweep()
        except Exception:
            carrier.abort(ErrorCode.OUR_FAULT, "The sender's thread ended.")
            raise
        carrier.abort(ErrorCode.OUR_SHUTDOWN, "We were stopping.")
        await carrier.close()

    def _is_finished(self) -> bool:
        if self._close_by_s is None:
            return False
        self._take_blocks()
        return not self._carried_count or time.monotonic() >= self._close_by_s

    def _seconds_to_next_look(self) -> float:
        if self._close_by_s is None:
            return SWEEP_S
        return min(SWEEP_S, max(0.0, self._close_by_s - time.monotonic()))

    def _notice_change(self) -> None:
        assert self._changed is not None
        self._changed.set()

    def _take_blocks(self) -> None:
        """Starts what was submitted; on the loop's thread."""
        assert self._carrier is not None
        with self._lock:
            blocks, self._blocks = self._blocks, []
            self._is_wake_up_sent = False
        start = self._carrier.start
        for block in blocks:
            for request in block:
                self._carried_count += 1
                try:
                    start(request)
                except Exception:  # noqa: BLE001 - one bad request must not take its block with it
                    _log.exception("sender_start_failed", token=request.token)
                    self._on_done(unsent(request, ErrorCode.OUR_FAULT, "The request could not be started."))

    def _on_done(self, outcome: Outcome) -> None:
        """Takes an outcome; on the loop's thread."""
        self._carried_count -= 1
        self._outcomes.append(outcome)
        if self._close_by_s is not None and not self._carried_count:
            self._notice_change()

    def _end_blocks(self) -> None:
        """Answers for what no loop will ever take."""
        with self._lock:
            blocks, self._blocks = self._blocks, []
        for block in blocks:
            self._outcomes.extend(
                [unsent(request, ErrorCode.OUR_SHUTDOWN, "We were stopping.") for request in block]
            )


def unsent(request: PreparedRequest, code: ErrorCode, detail: str) -> Outcome:
    """Returns the outcome of a request that never reached a socket."""
    now_ms = time.time_ns() // 1_000_000
    return Outcome(
        token=request.token,
        started_at_ms=now_ms,
        finished_at_ms=now_ms,
        error_code=code,
        error_detail=detail,
        requests_sent=0,
    )
