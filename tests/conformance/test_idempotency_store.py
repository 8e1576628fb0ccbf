"""The idempotency store remembers for a day, and the gate lets each key through once."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from api.idempotency import IdempotencyGate
from api.problems import ProblemError
from dataflows.connectors.idempotency_store import IdempotencyStore, Remembered
from schemas.errors import DirectoryInUse, StoreUnavailable
from schemas.problem_codes import ProblemCode

HOUR_MS = 3_600_000
START_MS = 1_900_000_000_000
A_BODY, ANOTHER_BODY = b"digest-1", b"digest-2"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


class Maker:
    """Does the work of a request when it is let, and tells how often it was asked to."""

    def __init__(self, *, is_held: bool = False) -> None:
        self.calls = 0
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.failures: list[Exception] = []
        if not is_held:
            self.may_end.set()

    async def __call__(self) -> bytes:
        self.calls += 1
        call = self.calls
        self.begun.set()
        await self.may_end.wait()
        if self.failures:
            raise self.failures.pop()
        return b"answer %d" % call


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[IdempotencyStore]:
    opened = IdempotencyStore(tmp_path / "idempotency")
    yield opened
    opened.close()


@pytest.fixture
def gate(store: IdempotencyStore, clock: Clock) -> IdempotencyGate:
    return IdempotencyGate(store, clock_ms=clock)


def _remembered(at_ms: int, answer: bytes = b"answer") -> Remembered:
    return Remembered(A_BODY, answer, at_ms)


class TestStore:
    @given(
        rows=st.dictionaries(
            st.tuples(st.text(max_size=3), st.text(max_size=3)),
            st.builds(
                Remembered,
                st.binary(max_size=255),
                st.binary(max_size=20),
                st.integers(START_MS - 23 * HOUR_MS, START_MS),
            ),
            max_size=8,
        )
    )
    @settings(max_examples=10)
    def test_every_answer_is_found_again_after_reopening(
        self, tmp_path_factory: pytest.TempPathFactory, rows: dict[tuple[str, str], Remembered]
    ) -> None:
        directory = tmp_path_factory.mktemp("rows")
        store = IdempotencyStore(directory)
        for name, what in rows.items():
            store.remember(*name, what)
        store.close()
        store = IdempotencyStore(directory)
        for name, what in rows.items():
            assert store.recall(*name, START_MS) == what
        assert store.recall("nobody", "nothing", START_MS) is None
        store.close()

    def test_names_do_not_meet_where_tenant_and_key_touch(self, store: IdempotencyStore) -> None:
        store.remember("a", "bc", _remembered(START_MS))
        assert store.recall("ab", "c", START_MS) is None

    def test_an_answer_is_forgotten_after_24_hours_to_the_millisecond(self, store: IdempotencyStore) -> None:
        store.remember("t", "k", _remembered(START_MS))
        assert store.recall("t", "k", START_MS + 24 * HOUR_MS - 1) is not None
        assert store.recall("t", "k", START_MS + 24 * HOUR_MS) is None

    def test_old_hours_are_dropped_whole_and_there_are_never_many(self, store: IdempotencyStore) -> None:
        for hour in range(40):
            store.remember("t", f"k{hour}", _remembered(START_MS + hour * HOUR_MS))
            assert len(store._hours) <= 26
        now_ms = START_MS + 39 * HOUR_MS
        found = [hour for hour in range(40) if store.recall("t", f"k{hour}", now_ms) is not None]
        assert found == list(range(16, 40))

    def test_a_clock_that_jumps_makes_no_heap_of_hours(self, store: IdempotencyStore) -> None:
        for hour in range(40, 0, -1):
            store.remember("t", "k", _remembered(START_MS + hour * HOUR_MS))
            assert len(store._hours) <= 26
        assert store.recall("t", "k", START_MS + 40 * HOUR_MS) is not None

    def test_a_later_answer_under_the_same_key_wins(self, store: IdempotencyStore) -> None:
        store.remember("t", "k", _remembered(START_MS, b"first"))
        store.remember("t", "k", _remembered(START_MS + HOUR_MS, b"second"))
        assert store.recall("t", "k", START_MS + HOUR_MS) == _remembered(START_MS + HOUR_MS, b"second")

    def test_a_row_of_another_version_is_not_remembered(self, store: IdempotencyStore) -> None:
        store.remember("t", "k", _remembered(START_MS))
        (family,) = store._hours.values()
        family.put(b"\0\1tk", b"\x02 whatever comes")
        assert store.recall("t", "k", START_MS) is None

    def test_a_second_opener_is_refused(self, store: IdempotencyStore, tmp_path: Path) -> None:
        store.remember("t", "k", _remembered(START_MS))
        with pytest.raises(DirectoryInUse):
            IdempotencyStore(tmp_path / "idempotency")
        assert store.recall("t", "k", START_MS) is not None

    def test_a_place_that_cannot_be_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreUnavailable):
            IdempotencyStore(tmp_path / "file")

    def test_a_damaged_store_is_set_aside_and_begun_anew(self, tmp_path: Path) -> None:
        directory = tmp_path / "idempotency"
        for _ in range(2):  # the second time there is one set aside already
            store = IdempotencyStore(directory)
            store.remember("t", "k", _remembered(START_MS))
            store.close()
            (directory / "CURRENT").write_bytes(b"")
            with capture_logs() as logs:
                store = IdempotencyStore(directory)
            assert [line["event"] for line in logs] == ["idempotency_store_is_damaged"]
            assert store.recall("t", "k", START_MS) is None
            store.remember("t", "k", _remembered(START_MS))
            store.close()
        assert sorted(file.name for file in tmp_path.iterdir()) == ["idempotency", "idempotency.damaged"]


class TestGate:
    async def test_a_repeat_gets_the_first_answer_also_from_another_process(
        self, gate: IdempotencyGate, store: IdempotencyStore, clock: Clock
    ) -> None:
        make = Maker()
        assert await gate.run_once("t", "k", A_BODY, make) == (b"answer 1", False)
        assert await gate.run_once("t", "k", A_BODY, make) == (b"answer 1", True)
        after_restart = IdempotencyGate(store, clock_ms=clock)
        assert await after_restart.run_once("t", "k", A_BODY, make) == (b"answer 1", True)
        assert make.calls == 1

    async def test_keys_of_two_tenants_have_nothing_to_do_with_each_other(
        self, gate: IdempotencyGate
    ) -> None:
        make = Maker()
        assert await gate.run_once("t", "k", A_BODY, make) == (b"answer 1", False)
        assert await gate.run_once("u", "k", ANOTHER_BODY, make) == (b"answer 2", False)

    async def test_after_a_day_the_work_is_done_again(self, gate: IdempotencyGate, clock: Clock) -> None:
        make = Maker()
        await gate.run_once("t", "k", A_BODY, make)
        clock.now_ms += 24 * HOUR_MS
        assert await gate.run_once("t", "k", ANOTHER_BODY, make) == (b"answer 2", False)

    async def test_another_body_is_refused_once_the_first_is_accepted(self, gate: IdempotencyGate) -> None:
        make = Maker()
        await gate.run_once("t", "k", A_BODY, make)
        await _refused(gate, ANOTHER_BODY, make, ProblemCode.IDEMPOTENCY_MISMATCH)
        assert make.calls == 1

    async def test_concurrent_callers_wait_for_the_first(self, gate: IdempotencyGate) -> None:
        make = Maker(is_held=True)
        first = asyncio.create_task(gate.run_once("t", "k", A_BODY, make))
        await make.begun.wait()
        others = [asyncio.create_task(gate.run_once("t", "k", A_BODY, make)) for _ in range(5)]
        other_body = asyncio.create_task(gate.run_once("t", "k", ANOTHER_BODY, make))
        await _all_waiting(others)
        make.may_end.set()
        assert await first == (b"answer 1", False)
        assert await asyncio.gather(*others) == [(b"answer 1", True)] * 5
        with pytest.raises(ProblemError) as refusal:
            await other_body
        assert refusal.value.code is ProblemCode.IDEMPOTENCY_MISMATCH
        assert make.calls == 1

    async def test_other_keys_do_not_wait(self, gate: IdempotencyGate) -> None:
        held, free = Maker(is_held=True), Maker()
        first = asyncio.create_task(gate.run_once("t", "k", A_BODY, held))
        await held.begun.wait()
        assert await gate.run_once("t", "other", A_BODY, free) == (b"answer 1", False)
        held.may_end.set()
        await first

    async def test_a_failure_is_not_remembered_and_those_who_waited_try_one_after_the_other(
        self, gate: IdempotencyGate
    ) -> None:
        make = Maker(is_held=True)
        make.failures = [OSError("second"), OSError("first")]
        first = asyncio.create_task(gate.run_once("t", "k", A_BODY, make))
        await make.begun.wait()
        others = [asyncio.create_task(gate.run_once("t", "k", A_BODY, make)) for _ in range(4)]
        await _all_waiting(others)
        make.may_end.set()
        with pytest.raises(OSError, match="first"):
            await first
        ended = await asyncio.gather(*others, return_exceptions=True)
        failed = [end for end in ended if isinstance(end, OSError)]
        answered = sorted(end for end in ended if not isinstance(end, BaseException))
        assert len(failed) == 1
        assert answered == [(b"answer 3", False), (b"answer 3", True), (b"answer 3", True)]
        assert make.calls == 3
        assert gate._running == {}

    async def test_another_body_may_follow_a_failure(self, gate: IdempotencyGate) -> None:
        make = Maker(is_held=True)
        make.failures = [OSError("first")]
        first = asyncio.create_task(gate.run_once("t", "k", A_BODY, make))
        await make.begun.wait()
        other_body = asyncio.create_task(gate.run_once("t", "k", ANOTHER_BODY, make))
        await _all_waiting([other_body])
        make.may_end.set()
        with pytest.raises(OSError, match="first"):
            await first
        assert await other_body == (b"answer 2", False)
        await _refused(gate, A_BODY, make, ProblemCode.IDEMPOTENCY_MISMATCH)

    async def test_a_caller_that_goes_away_leaves_the_key_to_the_next(self, gate: IdempotencyGate) -> None:
        make = Maker(is_held=True)
        first = asyncio.create_task(gate.run_once("t", "k", A_BODY, make))
        await make.begun.wait()
        second = asyncio.create_task(gate.run_once("t", "k", A_BODY, make))
        third = asyncio.create_task(gate.run_once("t", "k", A_BODY, make))
        await _all_waiting([second, third])
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        third.cancel()  # one that only waits takes nothing with it
        make.may_end.set()
        assert await second == (b"answer 2", False)
        assert gate._running == {}

    async def test_who_waited_too_long_is_told_that_it_is_in_progress(
        self, store: IdempotencyStore, clock: Clock
    ) -> None:
        gate = IdempotencyGate(store, clock_ms=clock, wait_ms=20)
        make = Maker(is_held=True)
        first = asyncio.create_task(gate.run_once("t", "k", A_BODY, make))
        await make.begun.wait()
        await _refused(gate, A_BODY, make, ProblemCode.IN_PROGRESS)
        make.may_end.set()
        assert await first == (b"answer 1", False)
        assert await gate.run_once("t", "k", A_BODY, make) == (b"answer 1", True)

    async def test_the_waits_for_several_failing_callers_are_one_wait(
        self, store: IdempotencyStore, clock: Clock
    ) -> None:
        gate = IdempotencyGate(store, clock_ms=clock, wait_ms=20)
        makers = [Maker(is_held=True) for _ in range(2)]
        makers[0].failures = [OSError("first")]
        first = asyncio.create_task(gate.run_once("t", "k", A_BODY, makers[0]))
        await makers[0].begun.wait()
        second = asyncio.create_task(gate.run_once("t", "k", A_BODY, makers[1]))
        waiting = asyncio.create_task(gate.run_once("t", "k", A_BODY, Maker()))
        await _all_waiting([second, waiting])
        makers[0].may_end.set()
        with pytest.raises(OSError, match="first"):
            await first
        await makers[1].begun.wait()
        with pytest.raises(ProblemError) as refusal:
            await waiting
        assert refusal.value.code is ProblemCode.IN_PROGRESS
        makers[1].may_end.set()
        assert await second == (b"answer 1", False)

    async def test_an_answer_that_cannot_be_kept_is_given_all_the_same(
        self, gate: IdempotencyGate, tmp_path: Path
    ) -> None:
        # RocksDB cannot make the hour's family any more; it may be deleting files of its own meanwhile.
        shutil.rmtree(tmp_path / "idempotency", ignore_errors=True)
        make = Maker(is_held=True)
        with capture_logs() as logs:
            first = asyncio.create_task(gate.run_once("t", "k", A_BODY, make))
            await make.begun.wait()
            second = asyncio.create_task(gate.run_once("t", "k", A_BODY, make))
            await _all_waiting([second])
            make.may_end.set()
            assert await first == (b"answer 1", False)
            assert await second == (b"answer 1", True)
        assert [line["event"] for line in logs] == ["idempotency_not_remembered"]

    async def test_a_memory_that_cannot_be_read_costs_no_request(self, tmp_path: Path, clock: Clock) -> None:
        directory = tmp_path / "damaged"
        store = IdempotencyStore(directory)
        store.remember("t", "k", _remembered(START_MS))
        store.close()
        IdempotencyStore(directory).close()  # moves the row from the WAL into a table
        for table in directory.glob("*.sst"):
            raw = bytearray(table.read_bytes())
            raw[10] ^= 1
            table.write_bytes(raw)
        store = IdempotencyStore(directory)
        gate = IdempotencyGate(store, clock_ms=clock)
        with capture_logs() as logs:
            assert await gate.run_once("t", "k", A_BODY, Maker()) == (b"answer 1", False)
        assert [line["event"] for line in logs] == ["idempotency_not_recalled"]
        store.close()


async def _refused(
    gate: IdempotencyGate, digest: bytes, make: Callable[[], Awaitable[bytes]], code: ProblemCode
) -> None:
    with pytest.raises(ProblemError) as refusal:
        await gate.run_once("t", "k", digest, make)
    assert refusal.value.code is code


async def _all_waiting(tasks: list[asyncio.Task[tuple[bytes, bool]]]) -> None:
    """Lets the loop turn until every task has come to its wait."""
    for _ in range(len(tasks) + 3):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
