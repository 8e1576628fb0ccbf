"""A damaged, killed or full local log: nothing acknowledged is lost in silence, nothing torn is shown."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from dataflows.connectors.log import local_database
from dataflows.connectors.log.local_database import Database
from dataflows.connectors.log.local_keys import (
    encode_record,
    pack_u64,
    partition_prefix,
    record_key,
)
from dataflows.connectors.log.local_reader import has_records_from
from dataflows.connectors.log.port import Entry, TopicPartition
from schemas.errors import (
    DamagedStore,
)
from tests.conformance.local_world import LocalWorld
from tests.conformance.log_contract import (
    DEADLINE_S,
    EVENTS,
    entries,
    read_all,
    values_of,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LocalWorld]:
    made = LocalWorld(tmp_path / "log")
    yield made
    made.close()


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
        numbers = [
            int.from_bytes(key, "big") for key, _ in database.scan(b"", b"\xff" * 9, local_database.COMMITS)
        ]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        commits.delete(pack_u64(numbers[len(numbers) // 2]))
        del commits
        database.close()
        with pytest.raises(DamagedStore, match="hole"):
            holed.open()

    def test_a_missing_record_in_the_middle_is_an_error_when_it_is_read(self, filled: LocalWorld) -> None:
        for missing in (0, 2):
            holed = filled.image(f"holed-{missing}")
            database = Database(holed.directory / "db")
            database.records.delete(record_key(partition_prefix(1, 0), missing))
            database.close()
            log = holed.open()
            with pytest.raises(DamagedStore, match=r"hole.*restore a backup"):
                read_all(log, EVENTS)
            log.close()

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

    def test_a_damaged_table_file_is_said_and_never_read_over(self, filled: LocalWorld) -> None:
        log = filled._opened[0]
        log.append_and_wait(EVENTS, [Entry(b"k", os.urandom(3_000)) for _ in range(60)])
        log.close()
        tables = filled.directory.glob("db/*.sst")
        table = max(tables, key=lambda file: file.stat().st_size)
        raw = table.read_bytes()
        said = 0
        for place in range(100, len(raw), 20_000):
            damaged = filled.image(f"table-{place}")
            flipped = bytearray(raw)
            flipped[place] ^= 1
            (damaged.directory / "db" / table.name).write_bytes(flipped)
            with pytest.raises(DamagedStore, match="backup"):
                assert len(read_all(damaged.open(), EVENTS)) < 66, "not reached"
            damaged.close()
            said += 1
        assert said > 5

    def test_rows_of_a_failed_write_above_the_end_are_never_shown(self, filled: LocalWorld) -> None:
        ghost = filled.image("ghost")
        database = Database(ghost.directory / "db")
        for offset in range(6, 10):
            database.records.put(record_key(partition_prefix(1, 0), offset), encode_record(1, b"", b"ghost"))
        database.close()
        log = ghost.open()
        assert log.end(EVENTS) == 6
        assert not has_records_from(log._database, log._states[EVENTS], 6)
        log.append_and_wait(EVENTS, entries("real"))
        assert values_of(read_all(log, EVENTS))[6:] == ["real"]
        log.close()


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
