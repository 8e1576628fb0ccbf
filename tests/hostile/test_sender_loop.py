"""The sender's thread when its carrier fails: what was submitted still comes back, once."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from dataflows.connectors.sender.sender_loop import OnDone, SenderLoop
from schemas.errors import Unavailable
from schemas.outcome import ErrorCode, Outcome, PreparedRequest
from tests.conformance.sender_contract import collect, post

Opener = Callable[[OnDone], Awaitable["FailingCarrier"]]


class FailingCarrier:
    """Holds everything, and fails where it is told to."""

    def __init__(self, done: OnDone, *, bad_start: int | None = None, bad_sweep: bool = False) -> None:
        self._done = done
        self._bad_start = bad_start
        self._bad_sweep = bad_sweep
        self._held: list[PreparedRequest] = []

    def start(self, request: PreparedRequest) -> None:
        if request.token[1] == self._bad_start:
            raise RuntimeError("cannot start this one")
        self._held.append(request)

    def sweep(self) -> None:
        if self._bad_sweep:
            raise RuntimeError("cannot sweep")

    def abort(self, code: ErrorCode, detail: str) -> None:
        held, self._held = self._held, []
        for request in held:
            self._done(
                Outcome(
                    token=request.token,
                    started_at_ms=0,
                    finished_at_ms=0,
                    error_code=code,
                    error_detail=detail,
                )
            )

    async def close(self) -> None:
        await asyncio.sleep(0)


def opener(*, bad_start: int | None = None, bad_sweep: bool = False) -> Opener:
    async def open_carrier(done: OnDone) -> FailingCarrier:
        return FailingCarrier(done, bad_start=bad_start, bad_sweep=bad_sweep)

    return open_carrier


def test_a_request_that_cannot_be_started_does_not_take_its_block_with_it() -> None:
    sender = SenderLoop(opener(bad_start=1), "t")
    sender.submit([post("http://127.0.0.1/", number) for number in range(3)])
    (failed,) = collect(sender, 1)
    assert (failed.token, failed.error_code) == ((7, 1), ErrorCode.OUR_FAULT)
    sender.close(0.0)
    assert sorted(outcome.token for outcome in sender.collect()) == [(7, 0), (7, 2)]


def test_when_the_thread_dies_everything_comes_back_as_our_fault() -> None:
    sender = SenderLoop(opener(bad_sweep=True), "t")
    sender.submit([post("http://127.0.0.1/", number) for number in range(3)])
    outcomes = collect(sender, 3)
    assert {outcome.error_code for outcome in outcomes} == {ErrorCode.OUR_FAULT}
    sender.close(5.0)
    sender.submit([post("http://127.0.0.1/", 9)])
    assert [outcome.error_code for outcome in sender.collect()] == [ErrorCode.OUR_SHUTDOWN]
    assert sender.in_flight_count == 0


def test_a_carrier_that_does_not_open_says_why() -> None:
    async def open_nothing(_done: OnDone) -> FailingCarrier:
        raise OSError("no such interface")

    with pytest.raises(Unavailable, match="no such interface"):
        SenderLoop(open_nothing, "t")


def test_many_blocks_cost_few_wake_ups() -> None:
    sender = SenderLoop(opener(), "t")
    assert sender._loop is not None
    busy, free = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        free.wait(5)

    sender._loop.call_soon_threadsafe(hold)
    assert busy.wait(5)
    for number in range(1_000):
        sender.submit([post("http://127.0.0.1/", number)])
    assert len(sender._blocks) == 1_000
    free.set()
    sender.close(0.0)
    assert [outcome.token[1] for outcome in sender.collect(2_000)] == list(range(1_000))


def test_close_returns_at_once_when_nothing_is_in_flight() -> None:
    sender = SenderLoop(opener(), "t")
    began_at_s = time.monotonic()
    sender.close(30.0)
    assert time.monotonic() - began_at_s < 5
