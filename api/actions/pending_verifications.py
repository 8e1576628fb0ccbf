"""Verifications that nobody waits for (policy `async`): asked again and again until the answer is known.

Where a verification stands is in the endpoint's record (pending, how many tries, when the last one was), so a
restart goes on with it. One task for each endpoint and URL that is pending; a new URL is asked at once, and
the task of the old one ends when it wakes.

Events are held meanwhile. After the last try the verification is `failed`, and nothing is asked any more
until a person does, with POST .../verify.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from msgspec.structs import replace

from api.actions.ask_receiver import AskReceiver
from api.actions.endpoint_status import with_verification
from api.actions.endpoint_writer import ANY, EndpointWriter
from api.endpoint_view import EndpointView
from api.problems import ProblemError
from schemas.endpoint import Endpoint, Verification, VerificationState
from schemas.errors import HooktideError

AT_ONCE_MAX: Final = 16
"""Thousands may be pending at a start; those that somebody waits for shall not stand behind them."""
_RETRY_AFTER_S: Final = 5.0
_BLOCK: Final = 500
_log = structlog.stdlib.get_logger("hooktide.api")


class PendingVerifications:
    """Belongs to one event loop.

    Args:
        delays_ms: before each try, counted from the one before; as many tries as delays.
        clock_ms: milliseconds UTC.
    """

    def __init__(
        self,
        asks: AskReceiver,
        writer: EndpointWriter,
        view: EndpointView,
        delays_ms: Sequence[int],
        clock_ms: Callable[[], int],
    ) -> None:
        self._asks = asks
        self._writer = writer
        self._view = view
        self._delays_ms = tuple(delays_ms)
        self._clock_ms = clock_ms
        self._at_once = asyncio.Semaphore(AT_ONCE_MAX)
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def follow(self, endpoint: Endpoint) -> None:
        """Sees to an endpoint whose verification is pending; others are left alone."""
        name = (endpoint.id, endpoint.url)
        if _is_pending(endpoint) and self._asks.can_ask and name not in self._tasks:
            task = asyncio.create_task(self._ask_until_known(*name))
            self._tasks[name] = task
            task.add_done_callback(lambda done: self._on_end(name, done))

    async def resume(self) -> None:
        """Goes on with what an earlier process left pending, once the view shows everything."""
        await self._view.catch_up()
        for looked_at, endpoint_id in enumerate(self._view.list_ids(None, "")):
            endpoint = self._view.peek(endpoint_id)
            if endpoint is not None:
                self.follow(endpoint)
            if looked_at % _BLOCK == _BLOCK - 1:
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Ends the tasks; what is pending stays pending."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_until_known(self, endpoint_id: str, url: str) -> None:
        while (endpoint := self._pending(endpoint_id, url)) is not None:
            await asyncio.sleep(self._wait_s(endpoint.verification))
            async with self._at_once:
                # It may have been deleted, verified by a person or sent elsewhere while this one slept.
                if (endpoint := self._pending(endpoint_id, url)) is None:
                    return
                wait_s = await self._try(endpoint)
            await asyncio.sleep(wait_s)

    def _pending(self, endpoint_id: str, url: str) -> Endpoint | None:
        endpoint = self._view.get(endpoint_id)
        return endpoint if endpoint is not None and endpoint.url == url and _is_pending(endpoint) else None

    def _wait_s(self, verification: Verification) -> float:
        delay_ms = self._delays_ms[min(verification.try_count, len(self._delays_ms) - 1)]
        # From the last try's time, so that a restart neither shortens nor lengthens it; a clock that was set
        # back does not count.
        left_ms = verification.at_ms + delay_ms - self._clock_ms()
        return min(max(left_ms, 0), delay_ms) / 1_000

    async def _try(self, endpoint: Endpoint) -> float:
        """Asks once and writes down what came of it; returns after how many seconds to look again."""
        try:
            verification = self._asks.judge(await self._asks.ask(endpoint))
            try_count = endpoint.verification.try_count + 1
            if verification.state is VerificationState.FAILED and try_count < len(self._delays_ms):
                verification = replace(verification, state=VerificationState.PENDING, try_count=try_count)
            await self._writer.change(
                endpoint.id, None, ANY, lambda now: taken_over(now, endpoint, verification)
            )
        except ProblemError as problem:  # too many of them, deleted meanwhile, the log is slow, our own fault
            _log.info("verification_put_off", endpoint=endpoint.id, because=problem.code)
            return float(problem.headers.get("Retry-After", _RETRY_AFTER_S))
        return 0.0

    def _on_end(self, name: tuple[str, str], task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        if task.cancelled() or (error := task.exception()) is None:
            return
        # Ours: the process stops, or a secret does not open. Anything else is a bug. A restart tries again.
        is_expected = isinstance(error, HooktideError)
        detail = str(error) if is_expected else type(error).__name__
        _log.error("verification_ended", endpoint=name[0], error=detail)


def taken_over(now: Endpoint, asked: Endpoint, verification: Verification) -> Endpoint:
    """Returns the endpoint with the verification's result, unless it has another URL by now."""
    return with_verification(now, verification) if now.url == asked.url else now


def _is_pending(endpoint: Endpoint) -> bool:
    return endpoint.verification.state is VerificationState.PENDING
