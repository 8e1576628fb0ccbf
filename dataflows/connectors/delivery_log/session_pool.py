"""A few reading connections, shared by many threads: first come, first served.

Two facts of the library shape it. A connection serves one query at a time. And after a query that failed it
keeps what that query had already written and puts it in front of its next answer (tried with 26.5), so a
connection that saw an exception is closed and a new one takes its place, which costs under 1 ms.

A connection is handed to the longest waiter, not put back for whoever comes next: a thread that asks in a
loop would otherwise get it every time, and the others none (tried as well, for 10 s).
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from schemas.errors import StoreUnavailable


class Closable(Protocol):
    """What is pooled."""

    def close(self) -> None:
        """Frees it."""


T = TypeVar("T", bound=Closable)


class SessionPool(Generic[T]):
    """At most `size` connections, opened when they are first needed.

    Args:
        open_session: makes one; may raise a `HooktideError`.
        wait_s: how long a thread waits for its turn.
    """

    def __init__(self, open_session: Callable[[], T], size: int, wait_s: float) -> None:
        self._open = open_session
        self._size = size
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._idle: list[T | None] = [None] * size
        self._waiting: deque[SimpleQueue[T | None]] = deque()
        self._is_closed = False

    @contextmanager
    def session(self) -> Iterator[T]:
        """Lends a connection; one that an exception passed through is not lent again.

        Raises:
            StoreUnavailable: none came free in time, or the pool is closed.
        """
        if self._is_closed:
            raise StoreUnavailable("the delivery log is closed")
        session = self._take(self._wait_s)
        try:
            if session is None:
                session = self._open()
            yield session
        except BaseException:
            if session is not None:
                session.close()
            self._give(None)
            raise
        self._give(session)

    def close(self) -> None:
        """Refuses new loans, waits for the running ones and closes every connection.

        Raises:
            StoreUnavailable: one does not come back (ClickHouse hangs when it cannot open a file).
        """
        self._is_closed = True
        for _ in range(self._size):
            session = self._take(self._wait_s)
            if session is not None:
                session.close()

    def _take(self, wait_s: float) -> T | None:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            turn: SimpleQueue[T | None] = SimpleQueue()
            self._waiting.append(turn)
        try:
            return turn.get(timeout=wait_s)
        except Empty as error:
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                    raise StoreUnavailable(f"no connection within {wait_s} s: too many reads") from error
            return turn.get_nowait()  # it came between the two

    def _give(self, session: T | None) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().put(session)
            else:
                self._idle.append(session)
