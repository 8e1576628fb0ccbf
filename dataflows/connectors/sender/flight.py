"""One request on its way: its clock, its stage, and what is known of its answer so far.

It is a mutable record with one owner, the carrier's loop thread. The sweep reads `due_at_s` of every flight
four times a second, so whoever changes the stage sets the time by which that stage must end.

The clock is `perf_counter`: one source for deadlines and for the timings in the log. The wall clock is read
once, at the start, so a step of it never makes an attempt end before it began.
"""

import asyncio
import time
from collections.abc import Iterable
from contextvars import ContextVar
from enum import Enum, auto
from typing import Final, Protocol

from dataflows.connectors.sender.failures import clean_text
from schemas.outcome import ErrorCode, Hop, Outcome, PreparedRequest

BODY_BYTES_KEPT: Final = 4_096
BODY_BYTES_READ_MAX: Final = 16_384
BODY_TIME_S_MAX: Final = 1.0
"""Beyond the headers. The status has decided by then; a slow body must not hold a slot."""
HEADERS_KEPT: Final = frozenset(
    {
        "content-length",
        "content-type",
        "date",
        "location",
        "request-id",
        "retry-after",
        "server",
        "traceparent",
        "x-request-id",
    }
)


class Stage(Enum):
    """Where a flight is; decides what being late means."""

    RESOLVING = auto()
    CONNECTING = auto()
    WAITING = auto()
    READING = auto()


class CountingConnection(Protocol):
    """What a flight asks of its connection: what came in since the request began, and when first."""

    received_bytes: int
    first_byte_at_s: float


class Flight:
    """A request in flight.

    Attributes:
        due_at_s: of the present stage, on the `perf_counter` clock.
        total_due_at_s: of the attempt; no stage ends later.
        needs_private: of the URL being asked, see `TargetUrl`.
        must_dial: no pooled connection may be used (an earlier one had died).
    """

    __slots__ = (
        "body",
        "connect_s",
        "due_at_s",
        "error_code",
        "error_detail",
        "first_byte_s",
        "headers",
        "hops",
        "is_body_truncated",
        "is_finished",
        "is_reused",
        "must_dial",
        "needs_private",
        "peer",
        "request",
        "requests_sent",
        "stage",
        "started_at_ms",
        "started_at_s",
        "status",
        "task",
        "total_due_at_s",
        "wire",
    )

    def __init__(self, request: PreparedRequest) -> None:
        self.request = request
        self.started_at_ms = time.time_ns() // 1_000_000
        self.started_at_s = time.perf_counter()
        self.total_due_at_s = self.started_at_s + request.total_timeout_ms / 1_000
        self.due_at_s = self.total_due_at_s
        self.stage = Stage.CONNECTING
        self.task: asyncio.Task[None] | None = None
        self.is_finished = False
        self.needs_private = False
        self.must_dial = False
        self.requests_sent = 1
        self.hops: tuple[Hop, ...] = ()
        self.connect_s = 0.0
        self.forget_answer()

    def forget_answer(self) -> None:
        """Starts over with the next request of the same attempt: a followed redirect, or a re-send."""
        self.status: int | None = None
        self.error_code = ErrorCode.NONE
        self.error_detail = ""
        self.headers: tuple[tuple[str, str], ...] = ()
        self.body = b""
        self.is_body_truncated = False
        self.first_byte_s = 0.0
        self.peer = ""
        self.is_reused = False
        self.wire: CountingConnection | None = None

    def enter(self, stage: Stage, stage_s_max: float | None = None) -> None:
        """Moves to the next stage, which may take so long, and never longer than the attempt."""
        self.stage = stage
        self.due_at_s = self.total_due_at_s
        if stage_s_max is not None:
            self.due_at_s = min(self.due_at_s, time.perf_counter() + stage_s_max)

    def give_back(self, missed_s: float) -> None:
        """Extends the deadlines by a time in which we stood still."""
        self.due_at_s += missed_s
        self.total_due_at_s += missed_s

    def fail(self, code: ErrorCode, detail: str) -> None:
        """Notes why there is no answer, or why the one there is does not count."""
        self.error_code = code
        self.error_detail = detail

    def fail_late(self, now_s: float) -> None:
        """Notes what it means that the stage is overdue; nothing, when the status is already known."""
        if self.stage is Stage.READING:
            self.is_body_truncated = True
        elif now_s >= self.total_due_at_s:
            self.fail(ErrorCode.TIMEOUT, f"No answer within {self.request.total_timeout_ms} ms.")
        elif self.stage is Stage.RESOLVING:
            self.fail(
                ErrorCode.DNS_TIMEOUT,
                f"The name was not resolved within {self.request.connect_timeout_ms} ms.",
            )
        else:
            self.fail(
                ErrorCode.CONNECT_TIMEOUT, f"No connection within {self.request.connect_timeout_ms} ms."
            )

    def keep_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Keeps the selected ones, once each and cut, names in lower case."""
        kept: dict[str, str] = {}
        for name, value in headers:
            lower = name.lower()
            if lower in HEADERS_KEPT:
                kept.setdefault(lower, clean_text(value))
        self.headers = tuple(kept.items())

    def outcome(self) -> Outcome:
        """Returns what is known, as of now."""
        total_s = time.perf_counter() - self.started_at_s
        return Outcome(
            token=self.request.token,
            started_at_ms=self.started_at_ms,
            finished_at_ms=self.started_at_ms + int(total_s * 1_000),
            status=self.status,
            error_code=self.error_code,
            error_detail=self.error_detail,
            headers=self.headers,
            body=self.body[:BODY_BYTES_KEPT],
            is_body_truncated=self.is_body_truncated or len(self.body) > BODY_BYTES_KEPT,
            connect_us=int(self.connect_s * 1_000_000),
            first_byte_us=int(self.first_byte_s * 1_000_000),
            total_us=int(total_s * 1_000_000),
            peer=self.peer,
            is_reused_connection=self.is_reused,
            requests_sent=self.requests_sent,
            hops=self.hops,
        )


CURRENT_FLIGHT: Final[ContextVar[Flight]] = ContextVar("CURRENT_FLIGHT")
"""Of the running task: the HTTP client calls back (resolver, socket factory, connector) without saying for
whom."""
