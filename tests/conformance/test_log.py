"""The local log keeps the `Log` contract, refuses what it should not open, and commits in groups."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from dataflows.connectors.log import local_chain, local_commit, local_database
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.local_database import Database
from dataflows.connectors.log.local_keys import (
    FORMAT_KEY,
    FormatRow,
    encode_group,
    group_key,
    pack_u64,
    partition_prefix,
)
from dataflows.connectors.log.port import Appended, Entry, GroupOffset, OffsetOutOfRange, TopicPartition
from schemas.errors import (
    DamagedStore,
    DirectoryInUse,
    FormatMismatch,
    HooktideError,
    LogUnavailable,
    StoreUnavailable,
)
from tests.conformance.local_world import START_MS, LocalWorld
from tests.conformance.log_contract import (
    DEADLINE_S,
    ENDPOINTS,
    EVENTS,
    Acks,
    LogContract,
    World,
    entries,
    read_all,
    values_of,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LocalWorld]:
    made = LocalWorld(tmp_path / "log")
    yield made
    made.close()


class TestLocalLog(LogContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        made = LocalWorld(tmp_path / "log")
        yield made
        made.close()


class TestOpening:
    def test_a_second_opener_is_told_that_it_is_in_use(self, world: LocalWorld) -> None:
        world.open()
        with pytest.raises(DirectoryInUse):
            world.open()

    def test_another_partition_count_refuses_and_names_both(self, world: LocalWorld) -> None:
        world.open().close()
        world.partitions["deliveries"] = 16
        with pytest.raises(FormatMismatch, match=r"3 partitions of `deliveries`, the settings say 16"):
            world.open()
        world.partitions["deliveries"] = 3
        world.open()

    def test_a_topic_may_be_added_and_the_others_keep_their_records(self, world: LocalWorld) -> None:
        log = world.open()
        log.append_and_wait(EVENTS, entries("old"))
        log.close()
        world.partitions = {"jobs": 1, **world.partitions}
        log = world.open()
        log.append_and_wait(TopicPartition("jobs", 0), entries("new"))
        assert values_of(read_all(log, EVENTS)) == ["old"]
        assert values_of(read_all(log, TopicPartition("jobs", 0))) == ["new"]

    def test_a_newer_format_refuses(self, world: LocalWorld) -> None:
        world.open().close()
        database = Database(world.directory / "db")
        newer = msgspec.json.encode(FormatRow(99, "x", {}))
        database.families[local_database.META].put(FORMAT_KEY, newer)
        database.close()
        with pytest.raises(FormatMismatch, match="99"):
            world.open()
        with pytest.raises(FormatMismatch):  # and the refusal left no lock behind
            world.open()

    def test_a_directory_that_cannot_be_made_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreUnavailable):
            LocalWorld(tmp_path / "file" / "log").open()

    def test_a_group_above_the_end_refuses_to_open(self, world: LocalWorld) -> None:
        world.open().close()
        database = Database(world.directory / "db")
        key = group_key("route", partition_prefix(1, 0))
        database.families[local_database.GROUPS].put(key, encode_group(GroupOffset(7, "")))
        database.close()
        with pytest.raises(DamagedStore, match=r"route stands at 7 in events\[0\]"):
            world.open()

    def test_a_commit_above_the_end_is_refused_and_stores_nothing(self, world: LocalWorld) -> None:
        log = world.open()
        log.append_and_wait(EVENTS, entries("a"))
        positions = {ENDPOINTS: GroupOffset(0, ""), EVENTS: GroupOffset(2, "")}
        with pytest.raises(OffsetOutOfRange):
            log.commit("route", positions)
        assert log.committed("route", ENDPOINTS) is None


def commit_numbers(log: LocalLog) -> list[int]:
    rows = log._database.scan(pack_u64(0), b"\xff" * 9, local_database.COMMITS)
    return [int.from_bytes(key, "big") for key, _ in rows]


class TestCommitting:
    def test_the_chain_of_commits_is_trimmed_at_opening(self, world: LocalWorld) -> None:
        log = world.open()
        for _ in range(20):
            log.append_and_wait(EVENTS, entries("x"))
        assert len(commit_numbers(log)) == 21
        log.close()
        assert commit_numbers(world.open()) == [22]

    def test_the_chain_is_trimmed_while_running_to_what_the_write_ahead_log_can_hold(
        self, world: LocalWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local_chain, "_TRIM_EVERY", 4)
        monkeypatch.setattr(local_chain, "_KEEP_BYTES", 20_000)
        log = world.open()
        for _ in range(60):
            log.append_and_wait(EVENTS, entries("x" * 1_000))
        numbers = commit_numbers(log)
        assert 18 <= len(numbers) <= 30
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        log.close()
        assert len(read_all(world.open(), EVENTS)) == 60

    def test_appends_share_commits(self, world: LocalWorld) -> None:
        log = world.open()
        acks = Acks()
        for number in range(2_000):
            log.append(EVENTS, entries("x"), acks.of(number))
        acks.wait_for(2_000)
        assert log._chain.number < 500

    def test_a_lone_append_does_not_wait_for_company(self, world: LocalWorld) -> None:
        world.linger_ms = 60_000
        log = world.open()
        log.append_and_wait(EVENTS, entries("alone"), timeout_s=DEADLINE_S)
        log.append_and_wait(EVENTS, entries("again"), timeout_s=DEADLINE_S)

    def test_a_clock_that_steps_back_does_not_take_record_times_along(self, world: LocalWorld) -> None:
        log = world.open()
        log.append_and_wait(EVENTS, entries("a"))
        world.now_ms -= 5_000
        assert log.append_and_wait(EVENTS, entries("b")).timestamp_ms == START_MS
        log.close()
        assert world.open().append_and_wait(EVENTS, entries("c")).timestamp_ms == START_MS

    def test_a_full_queue_refuses_instead_of_growing(
        self, world: LocalWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local_commit, "QUEUE_BYTES_MAX", 10_000)
        log = world.open()
        release, held = threading.Event(), threading.Event()

        def hold(_: Appended | HooktideError) -> None:
            held.set()
            release.wait(DEADLINE_S)

        log.append(EVENTS, entries("first"), hold)
        assert held.wait(DEADLINE_S)
        answers = Acks()
        for number in range(20):
            log.append(EVENTS, entries("x" * 1_000), answers.of(number))
        release.set()
        log.close()
        kinds = [type(answer) for _, answer in answers.answers]
        assert kinds == [Appended] * 9 + [LogUnavailable] * 11

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_callback_that_raises_makes_the_log_unavailable_and_leaves_nobody_waiting(
        self, world: LocalWorld
    ) -> None:
        log = world.open()

        def broken(_: Appended | HooktideError) -> None:
            raise ZeroDivisionError

        log.append(EVENTS, entries("a"), broken)
        with suppress(LogUnavailable):  # queued before the crash or refused after it: answered either way
            log.append_and_wait(EVENTS, entries("b"), timeout_s=DEADLINE_S)
        log._committer._thread.join(DEADLINE_S)
        with pytest.raises(LogUnavailable, match="crashed"):
            log.append_and_wait(EVENTS, entries("c"), timeout_s=DEADLINE_S)

    def test_an_idle_poll_asks_memory_only(self, world: LocalWorld) -> None:
        log = world.open()
        log.append_and_wait(EVENTS, entries("a"))
        reader = log.reader({EVENTS: log.end(EVENTS)})
        reader._database = None  # type: ignore[attr-defined]
        assert not reader.poll(EVENTS, 100)

    def test_a_poll_is_bounded_in_bytes_too(self, world: LocalWorld) -> None:
        log = world.open()
        megabyte = Entry(b"k", bytes(1 << 20))
        log.append_and_wait(EVENTS, [megabyte] * 10, timeout_s=DEADLINE_S)
        reader = log.reader({EVENTS: 0})
        assert [len(reader.poll(EVENTS, 100)) for _ in range(3)] == [8, 2, 0]
