"""Reads from the delivery log, off the event loop, on two threads of their own.

ClickHouse calls block. The default executor is where others resolve names and open files; a slow query there
would stop them. Two threads keep a flood of reads from taking the machine; beyond a queue of waiting reads
the answer is 503 at once, not a wait without end.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from api.problems import ProblemError
from schemas.problem_codes import ProblemCode

T = TypeVar("T")

_THREADS: Final = 2
_WAITING_MAX: Final = 200


class ReadPool:
    """Runs blocking reads. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="api-read")
        self._waiting = 0

    async def run(self, read: Callable[[], T]) -> T:
        """Returns what `read` returns.

        Raises:
            ProblemError: `not_ready`: too many reads are waiting.
        """
        if self._waiting >= _WAITING_MAX:
            detail = "Too many reads are waiting; try again."
            raise ProblemError(ProblemCode.NOT_READY, detail, headers={"Retry-After": "1"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, read)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Waits for what runs, drops what waits."""
        self._threads.shutdown(wait=True, cancel_futures=True)
