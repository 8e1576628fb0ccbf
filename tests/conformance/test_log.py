"""The local log keeps the `Log` contract, and what only a log on one disk has to promise: locks, damage, a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.connectors.log import local_commit, local_database
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.local_compaction import REPLACED_MS, TOMBSTONE_MS
from dataflows.connectors.log.local_database import Database
from dataflows.connectors.log.local_keys import (
    FORMAT_KEY,
    FormatRow,
    decode_record,
    encode_group,
    encode_record,
    group_key,
    pack_u64,
    partition_prefix,
    record_key,
)
from dataflows.connectors.log.port import Appended, Entry, GroupOffset, Log, OffsetOutOfRange, TopicPartition
from schemas.errors import (
    DamagedStore,
    DirectoryInUse,
    FormatMismatch,
    HooktideError,
    LogUnavailable,
    StoreUnavailable,
)
from schemas.topics import DAY_MS
from tests.conformance.log_contract import (
    DEADLINE_S,
    ENDPOINTS,
    EVENTS,
    PARTITIONS,
    Acks,
    LogContract,
    World,
    entries,
    read_all,
    values_of,
)

ROOT = Path(__file__).parents[2]
START_MS = 1_700_000_000_000


class LocalWorld:
    """A directory and a clock that moves when a test says so."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_ms = START_MS
        self.partitions = dict(PARTITIONS)
        self.linger_ms = 1.0
        self._opened: list[LocalLog] = []

    def open(self) -> LocalLog:
        log = LocalLog.open(
            self.directory,
            partitions=self.partitions,
            clock_ms=lambda: self.now_ms,
            linger_ms=self.linger_ms,
        )
        self._opened.append(log)
        return log

    def drop_all(self, log: Log, of: TopicPartition) -> None:
        assert isinstance(log, LocalLog)
        log.enforce_retention(self.now_ms + 1_000 * DAY_MS)
        assert log.start(of) == log.end(of)

    def image(self, name: str) -> "LocalWorld":
        """Returns a copy of the directory as it is now: what a kill at this moment would leave."""
        copy = self.directory.with_name(name)
        shutil.copytree(self.directory, copy)
        world = LocalWorld(copy)
        world.now_ms = self.now_ms
        return world

    def wal(self) -> Path:
        return max(self.directory.glob("db/*.log"), key=lambda file: int(file.stem))

    def close(self) -> None:
        for log in self._opened:
            log.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LocalWorld]:
    made = LocalWorld(tmp_path / "log")
    yield made
    made.close()


class TestLocalLog(LogContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:  # type: ignore[override]
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


class TestDamage:
    @pytest.fixture
    def filled(self, world: LocalWorld) -> LocalWorld:
        log = world.open()
        for number in range(6):
            log.append_and_wait(EVENTS, entries(f"{number}" * 20))
        return world

    def test_a_killed_log_opens_with_everything_acknowledged(self, filled: LocalWorld) -> None:
        killed = filled.image("killed")
        log = killed.open()
        assert values_of(read_all(log, EVENTS)) == [f"{number}" * 20 for number in range(6)]
        log.close()

    def test_a_flipped_byte_anywhere_is_never_a_silent_loss(self, filled: LocalWorld) -> None:
        whole = filled.image("whole")
        raw = whole.wal().read_bytes()
        name = whole.wal().name
        refused = 0
        for place in [*range(0, len(raw), 29), len(raw) - 1]:
            damaged = whole.image(f"flip-{place}")
            flipped = bytearray(raw)
            flipped[place] ^= 0x40
            (damaged.directory / "db" / name).write_bytes(flipped)
            try:
                log = damaged.open()
            except DamagedStore as refusal:
                assert "backup" in str(refusal)  # noqa: PT017 - whether it raises is not what is tested
                refused += 1
                continue
            assert len(read_all(log, EVENTS)) == 6, f"byte {place} of {len(raw)}: records vanished"
            log.close()
        assert refused > len(raw) // 29 * 0.9

    def test_a_cut_acknowledged_tail_refuses(self, filled: LocalWorld) -> None:
        for cut in (1, 30, 200):
            cut_off = filled.image(f"cut-{cut}")
            wal = cut_off.wal()
            os.truncate(wal, wal.stat().st_size - cut)
            with pytest.raises(DamagedStore, match="was acknowledged"):
                cut_off.open()

    def test_a_deleted_write_ahead_log_refuses(self, filled: LocalWorld) -> None:
        bare = filled.image("bare")
        bare.wal().unlink()
        with pytest.raises(DamagedStore):
            bare.open()

    def test_a_torn_tail_that_nobody_was_told_of_opens_without_it(self, filled: LocalWorld) -> None:
        before = filled.image("before")
        at = before.wal().stat().st_size
        filled._opened[0].append_and_wait(EVENTS, entries("x" * 300))
        longer = filled.wal().read_bytes()
        for kept in range(at + 1, len(longer), 41):
            torn = before.image(f"torn-{kept}")
            torn.wal().write_bytes(longer[:kept])
            log = torn.open()
            assert values_of(read_all(log, EVENTS)) == [f"{number}" * 20 for number in range(6)]
            assert log.append_and_wait(EVENTS, entries("next")).first_offset == 6
            log.close()
            log = torn.open()
            assert values_of(read_all(log, EVENTS))[6:] == ["next"]
            log.close()

    def test_a_hole_in_the_chain_of_commits_refuses(self, filled: LocalWorld) -> None:
        holed = filled.image("holed")
        database = Database(holed.directory / "db")
        commits = database.families[local_database.COMMITS]
        numbers = [int.from_bytes(key, "big") for key in commits.keys()]  # noqa: SIM118 - no mapping
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        commits.delete(pack_u64(numbers[len(numbers) // 2]))
        del commits
        database.close()
        with pytest.raises(DamagedStore, match="hole"):
            holed.open()

    def test_a_missing_last_record_refuses(self, filled: LocalWorld) -> None:
        short = filled.image("short")
        database = Database(short.directory / "db")
        database.records.delete(record_key(partition_prefix(1, 0), 5))
        database.close()
        with pytest.raises(DamagedStore, match=r"events\[0\] should end with offset 5"):
            short.open()

    def test_a_damaged_note_refuses_and_a_deleted_one_means_knowingly(self, filled: LocalWorld) -> None:
        damaged = filled.image("damaged")
        note = damaged.directory / "acknowledged"
        note.write_bytes(b"?" * 12)
        with pytest.raises(DamagedStore, match="acknowledged"):
            damaged.open()
        note.unlink()
        log = damaged.open()
        assert len(read_all(log, EVENTS)) == 6
        log.close()

    def test_rows_of_a_failed_write_above_the_end_are_never_shown(self, filled: LocalWorld) -> None:
        ghost = filled.image("ghost")
        database = Database(ghost.directory / "db")
        for offset in range(6, 10):
            database.records.put(record_key(partition_prefix(1, 0), offset), encode_record(1, b"", b"ghost"))
        database.close()
        log = ghost.open()
        assert log.end(EVENTS) == 6
        log.append_and_wait(EVENTS, entries("real"))
        assert values_of(read_all(log, EVENTS))[6:] == ["real"]
        log.close()


class TestCommitting:
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
        with pytest.raises(LogUnavailable, match="crashed"):
            for _ in range(1_000):
                log.append_and_wait(EVENTS, entries("b"), timeout_s=DEADLINE_S)

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


class TestForgetting:
    def test_records_older_than_the_retention_go_and_the_start_stands(self, world: LocalWorld) -> None:
        log = world.open()
        for day in range(10):
            world.now_ms = START_MS + day * DAY_MS
            log.append_and_wait(EVENTS, entries(f"{day}", f"{day}"))
        assert log.enforce_retention(world.now_ms) == 4
        assert values_of(read_all(log, EVENTS)) == [str(day) for day in range(2, 10) for _ in range(2)]
        assert log.start(EVENTS) == 4
        assert log.enforce_retention(world.now_ms) == 0
        log.close()
        log = world.open()
        assert (log.start(EVENTS), log.end(EVENTS)) == (4, 20)
        reader = log.reader({EVENTS: 3})
        with pytest.raises(OffsetOutOfRange):
            reader.poll(EVENTS, 1)

    def test_a_replaced_record_is_readable_for_a_minute_and_then_gone(self, world: LocalWorld) -> None:
        log = world.open()
        log.append_and_wait(ENDPOINTS, [Entry(b"a", b"1"), Entry(b"b", b"1"), Entry(b"a", b"2")])
        log.enforce_retention(world.now_ms + REPLACED_MS)
        assert [record.value for record in read_all(log, ENDPOINTS)] == [b"1", b"1", b"2"]
        log.enforce_retention(world.now_ms + REPLACED_MS + 1)
        assert [(record.key, record.value) for record in read_all(log, ENDPOINTS)] == [(b"b", b"1"), (b"a", b"2")]

    def test_a_tombstone_is_readable_for_a_day_and_then_gone(self, world: LocalWorld) -> None:
        log = world.open()
        log.append_and_wait(ENDPOINTS, [Entry(b"a", b"1"), Entry(b"b", b"1"), Entry(b"a", None), Entry(b"b", None)])
        log.append_and_wait(ENDPOINTS, [Entry(b"b", b"2")])
        log.enforce_retention(world.now_ms + TOMBSTONE_MS)
        assert [(record.key, record.value) for record in read_all(log, ENDPOINTS)] == [(b"a", None), (b"b", b"2")]
        log.enforce_retention(world.now_ms + TOMBSTONE_MS + 1)
        assert [(record.key, record.value) for record in read_all(log, ENDPOINTS)] == [(b"b", b"2")]
        log.append_and_wait(ENDPOINTS, [Entry(b"b", None)])
        log.enforce_retention(world.now_ms + TOMBSTONE_MS + 1)
        end = log.end(ENDPOINTS)
        log.close()
        log = world.open()  # the last record is gone, the end is not
        assert (read_all(log, ENDPOINTS), log.end(ENDPOINTS)) == ([], end)
        for family in (local_database.LATEST, local_database.GRAVES):
            assert list(log._database.families[family].keys()) == []

    def test_more_is_forgotten_than_one_batch_takes(self, world: LocalWorld) -> None:
        log = world.open()
        for value in (b"1", b"2", None):
            log.append_and_wait(ENDPOINTS, [Entry(b"%d" % key, value) for key in range(2_500)])
        assert log.enforce_retention(world.now_ms + TOMBSTONE_MS + 1) == 3 * 2_500
        assert read_all(log, ENDPOINTS) == []


APPENDER = """
import os, sys, threading, time
from pathlib import Path
from zlib import crc32
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Appended, Entry, TopicPartition
log = LocalLog.open(Path(sys.argv[1]), partitions={"events": 2, "deliveries": 3, "endpoints": 1},
                    clock_ms=lambda: time.time_ns() // 1_000_000, linger_ms=1.0)
def run(partition):
    of, room = TopicPartition("events", partition), threading.Semaphore(50)
    number = log.end(of)
    def done(answer, first, count):
        assert isinstance(answer, Appended) and answer.first_offset == first, (answer, first)
        os.write(1, b"%d %d %d\\n" % (partition, first, count))
        room.release()
    while True:
        room.acquire()
        count = 1 + number % 7
        block = []
        for n in range(number, number + count):
            body = b"%d:" % n + b"x" * (n % 500)
            block.append(Entry(b"%d" % crc32(body), body))
        log.append(of, block, lambda answer, first=number, count=count: done(answer, first, count))
        number += count
threading.Thread(target=run, args=(0,), daemon=True).start()
run(1)
"""


def _acks_until_killed(directory: Path, acks: int) -> list[tuple[int, int, int]]:
    child = subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(directory)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    lines = []
    try:
        for line in child.stdout:
            lines.append(line)
            if len(lines) == acks:
                break
    finally:
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.stdout.close()
        child.wait()
    return [(*map(int, line.split()),) for line in lines if line.endswith("\n")]  # type: ignore[misc]


def test_kill_9_loses_nothing_acknowledged_and_shows_nothing_torn(world: LocalWorld) -> None:
    acknowledged = [0, 0]
    for acks in (1, 400, 1_200):
        for partition, first, count in _acks_until_killed(world.directory, acks):
            acknowledged[partition] = max(acknowledged[partition], first + count)
        log = world.open()
        for partition in (0, 1):
            records = read_all(log, TopicPartition("events", partition))
            assert [record.offset for record in records] == list(range(len(records)))
            assert len(records) >= acknowledged[partition]
            for record in records:
                assert record.value is not None
                assert record.value.split(b":")[0] == b"%d" % record.offset
                assert record.key == b"%d" % crc32(record.value)
        log.close()
    assert min(acknowledged) > 0


FULL_DISK = """
import json, resource, sys, time
from pathlib import Path
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Entry, TopicPartition
from schemas.errors import HooktideError
of = TopicPartition("events", 0)
log = LocalLog.open(Path(sys.argv[1]), partitions={"events": 2, "deliveries": 3, "endpoints": 1},
                    clock_ms=lambda: time.time_ns() // 1_000_000, linger_ms=1.0)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
answers = []
def append(n):
    try:
        log.append_and_wait(of, [Entry(None, b"%d" % n + b":" + bytes(5_000))], timeout_s=20)
        answers.append(None)
    except HooktideError as error:
        answers.append([type(error).__name__, str(error)])
for n in range(3):
    append(n)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, unlimited[1]))
for n in range(3, 10):
    append(n)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
append(10)
reader = log.reader({of: 0})
seen = [int(r.value.split(b":")[0]) for r in reader.poll(of, 100)]
print(json.dumps({"answers": answers, "seen": seen, "end": log.end(of)}), flush=True)
import os
os._exit(0)
"""


def test_a_full_disk_is_said_and_leaves_no_gap(world: LocalWorld) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(world.directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    said = json.loads(done.stdout)
    good = [number for number, answer in enumerate(said["answers"]) if answer is None]
    bad = [answer for answer in said["answers"] if answer is not None]
    assert good[:3] == [0, 1, 2]
    assert bad
    assert {kind for kind, _ in bad} == {"LogUnavailable"}
    assert "File too large" in bad[0][1]
    assert said["seen"] == good
    assert said["end"] == len(good)
    log = world.open()
    found = [int(value.split(":")[0]) for value in values_of(read_all(log, EVENTS))]
    assert found[: len(good)] == good
    assert log.append_and_wait(EVENTS, entries("after")).first_offset == len(found)


class TestBytes:
    @given(
        key=st.none() | st.binary(max_size=40),
        value=st.none() | st.binary(max_size=80),
        offset=st.integers(0, 2**64 - 2),
        timestamp_ms=st.integers(0, 2**48),
    )
    def test_a_record_comes_back(
        self, key: bytes | None, value: bytes | None, offset: int, timestamp_ms: int
    ) -> None:
        record = decode_record(offset, encode_record(timestamp_ms, key, value))
        assert record == (offset, timestamp_ms, key, value)

    def test_another_version_and_a_stump_are_named(self) -> None:
        with pytest.raises(FormatMismatch, match="format 9"):
            decode_record(1, b"\x09" + encode_record(1, b"k", b"v")[1:])
        with pytest.raises(DamagedStore):
            decode_record(1, b"\x01abc")


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "append", "delete", "wait", "retain", "restart"]), st.integers(0, 5)),
    max_size=25,
)


class TestModel:
    _number: ClassVar[int] = 0

    @given(steps=STEPS)
    @settings(max_examples=25, deadline=None)
    def test_any_history_folds_to_what_was_written_last(
        self, steps: list[Step], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Whatever is appended, forgotten and restarted: a compacted topic says the last value of every key."""
        world = LocalWorld(tmp_path_factory.mktemp("model") / "log")
        log = world.open()
        expected: dict[bytes, bytes] = {}
        position = 0
        for number, (what, key) in enumerate(steps):
            name = b"%d" % key
            if what == "append":
                expected[name] = b"%d" % number
                log.append_and_wait(ENDPOINTS, [Entry(name, b"old"), Entry(name, expected[name])])
                position += 2
            elif what == "delete":
                expected.pop(name, None)
                log.append_and_wait(ENDPOINTS, [Entry(name, None)])
                position += 1
            elif what == "wait":
                world.now_ms += (REPLACED_MS if key < 3 else TOMBSTONE_MS) + 1
            elif what == "retain":
                log.enforce_retention(world.now_ms)
            else:
                log.close()
                log = world.open()
            assert log.end(ENDPOINTS) == position
        folded = {record.key: record.value for record in read_all(log, ENDPOINTS)}
        assert {key: value for key, value in folded.items() if value is not None} == expected
        log.close()


