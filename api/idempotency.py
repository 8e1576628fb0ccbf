"""The gate that keyed requests pass: one of them runs, the others get its answer.

Within this process the gate knows what is running; beyond that, and after a restart, the store knows what
was answered in the last 24 hours. Neither is what makes a key safe: every process derives the same event id
from the same key, so a crash between the append and the remembering, or a repeat through another process,
is still one event. That is why the gate goes on when its store fails: an accepted event must not be
answered with an error.

Only answers are remembered. A request that raises (503, a refusal) leaves nothing, and those who waited for
it try themselves, one after the other. A waiting request with another body is told so only when the first
one has been
accepted: until then its body is as good as the other.

Memory: one entry per keyed request that is running, so it is bounded by the server's open requests.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from api.problems import ProblemError
from dataflows.connectors.idempotency_store import IdempotencyStore, Remembered
from schemas.errors import HooktideError
from schemas.problem_codes import ProblemCode

_log = structlog.stdlib.get_logger("hooktide.api")

_Name = tuple[str, str]


class IdempotencyGate:
    """Lets each key of a tenant through once. Lives on one event loop.

    Args:
        store: remembers answers beyond this process's life.
        clock_ms: milliseconds UTC.
        wait_ms: how long a request waits for another one with its key. 2 s is the longest a healthy publish
            takes (the log's own deadline).
    """

    def __init__(self, store: IdempotencyStore, *, clock_ms: Callable[[], int], wait_ms: int = 2_000) -> None:
        self._store = store
        self._clock_ms = clock_ms
        self._wait_s = wait_ms / 1_000
        self._running: dict[_Name, asyncio.Future[Remembered | None]] = {}

    async def run_once(
        self, tenant_id: str, key: str, body_digest: bytes, make: Callable[[], Awaitable[bytes]]
    ) -> tuple[bytes, bool]:
        """Returns the answer to a key, and whether it is a repeat.

        Args:
            tenant_id: keys of two tenants have nothing to do with each other.
            key: the idempotency key.
            body_digest: names the request's content.
            make: does the work and returns the answer; what it raises goes to this caller only.

        Raises:
            ProblemError: `in_progress`, when another request with the key is still running after the wait, or
                `idempotency_mismatch`, when the key was accepted with another body.
        """
        name = tenant_id, key
        remembered = await self._wait_for_others(name)
        # Nothing is awaited from here until this request is the running one.
        if remembered is None:
            remembered = self._recall(name)
        if remembered is not None:
            return _repeated(remembered, body_digest), True
        ended: asyncio.Future[Remembered | None] = asyncio.get_running_loop().create_future()
        self._running[name] = ended
        outcome = None
        try:
            answer = await make()
            outcome = Remembered(body_digest, answer, self._clock_ms())
            self._remember(name, outcome)
        finally:
            del self._running[name]
            ended.set_result(outcome)
        return answer, False

    async def _wait_for_others(self, name: _Name) -> Remembered | None:
        deadline = asyncio.get_running_loop().time() + self._wait_s
        while (running := self._running.get(name)) is not None:
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            ended, _ = await asyncio.wait((running,), timeout=left_s)
            if not ended:
                raise ProblemError(
                    ProblemCode.IN_PROGRESS,
                    "Another request with this Idempotency-Key is still being handled. Send it again later.",
                    headers={"Retry-After": "1"},
                )
            outcome = running.result()
            if outcome is not None:
                return outcome
        return None

    def _recall(self, name: _Name) -> Remembered | None:
        try:
            return self._store.recall(*name, self._clock_ms())
        except HooktideError as error:
            _log.warning("idempotency_not_recalled", tenant_id=name[0], why=str(error))
            return None

    def _remember(self, name: _Name, what: Remembered) -> None:
        try:
            self._store.remember(*name, what)
        except HooktideError as error:
            _log.warning("idempotency_not_remembered", tenant_id=name[0], why=str(error))


def _repeated(remembered: Remembered, body_digest: bytes) -> bytes:
    if remembered.body_digest != body_digest:
        raise ProblemError(
            ProblemCode.IDEMPOTENCY_MISMATCH,
            "This Idempotency-Key was accepted with another body. Use a new key for a new event.",
        )
    return remembered.answer
