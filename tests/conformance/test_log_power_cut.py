"""After a power cut everything acknowledged is there: the local log, and what a shard store had synced.

A process is run under strace, and its system calls say what a power cut at any of them would leave on a disk
that keeps no more than POSIX promises (disk_after_power_cut.py). Each such image is opened and read.
"""

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import pytest

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Entry
from deploy.checks import ROOT
from schemas.errors import DamagedStore
from tests.conformance.disk_after_power_cut import TRACED, PowerCutDisk
from tests.conformance.log_contract import read_all
from tests.conformance.log_power_cut_victim import ENDPOINTS, GROUP, events, open_log, value_of
from tests.conformance.shard_store_victim import check, open_store
from tests.conformance.system_calls import Call, read_trace, traced

IMAGES = 220
APPENDS = 70
BATCHES = 350
TURNS = re.compile(rb"^(\w+)((?: \d+)*)$", re.MULTILINE)

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("strace")]


class Run(NamedTuple):
    """A victim's run: the directory that it wrote to, and its calls.

    Attributes:
        first: index of the first call that concerns the directory.
    """

    root: Path
    calls: list[Call]
    first: int
    trace: Path


def _run(directory: Path, victim: str, *args: str) -> Run:
    root, trace = directory / "disk", directory / "trace"
    root.mkdir()
    command = [sys.executable, "-m", f"tests.conformance.{victim}", str(root / "store"), *args]
    subprocess.run(
        traced(command, trace, TRACED), cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=90
    )
    calls = read_trace(trace)
    first = next(at for at, call in enumerate(calls) if str(root) in call.arguments)
    return Run(root, calls, first, trace)


class Told(NamedTuple):
    """What the victim had said when the power went: the last word of each kind."""

    said: dict[str, int]

    def last(self, name: str, default: int = 0) -> int:
        return self.said.get(name, default)


def _images(run: Run, images: Path, seed: int, count: int = IMAGES) -> Iterator[tuple[Path, Told, str]]:
    """Yields what is left after a power cut at `count` calls, half of them right after something was told."""
    chance = random.Random(seed)
    tellings = [at for at, call in enumerate(run.calls) if _is_told(call)]
    points = set(chance.sample(tellings, min(count // 2, len(tellings))))
    points |= set(chance.sample(range(run.first, len(run.calls)), count - len(points)))
    disk, said = PowerCutDisk(run.root), dict[str, int]()
    for at, call in enumerate(run.calls):
        disk.apply(call)
        if _is_told(call):
            for name, numbers in TURNS.findall(call.data):
                *which, number = numbers.split() or [b"0"]
                said[b" ".join([name, *which]).decode()] = int(number)
        if at in points:
            image = images / str(at)
            images.mkdir(exist_ok=True)
            disk.leave(image, chance)
            yield image / "store", Told(said), f"seed {seed}, after call {at} of {run.trace}"
            shutil.rmtree(image)
    assert disk.unsynced_seen > count // 4, "the power was cut when nothing was at stake"


def _is_told(call: Call) -> bool:
    return call.name == "write" and call.descriptor == 1


def _missing(log: LocalLog, told: Told) -> list[str]:
    """Returns what was acknowledged and is not there, in words; asserts that nothing else is wrong."""
    missing = []
    for partition in (0, 1):
        of = events(partition)
        records = read_all(log, of)
        assert [record.offset for record in records] == list(range(len(records)))
        for record in records:
            assert record.value == value_of(record.offset)
            assert record.key == b"%d" % crc32(record.value)
        if len(records) < told.last(f"events {partition}"):
            missing.append(f"{len(records)} of {told.last(f'events {partition}')} events")
        committed = log.committed(GROUP, of)
        position = committed.offset if committed is not None else 0
        if position < told.last(f"commit {partition}"):
            missing.append(f"the group stands at {position}, not {told.last(f'commit {partition}')}")
    newest = {record.key: int(record.value or b"") for record in read_all(log, ENDPOINTS)}
    revision = told.last("endpoints", -1)
    if max(newest.values(), default=-1) < revision:
        missing.append(f"revision {revision} of the endpoints, {newest} is there")
    return missing


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A log from its making to its closing, with many write-ahead logs and tables."""
    run = _run(tmp_path_factory.mktemp("log"), "log_power_cut_victim", str(APPENDS))
    made = [Path(call.result_target).suffix for call in run.calls if "O_CREAT" in call.arguments]
    assert made.count(".log") >= 4, "write-ahead logs must have ended"
    assert made.count(".sst") > 10
    return run


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A shard store from its making to its closing, as above."""
    run = _run(tmp_path_factory.mktemp("shard"), "shard_power_cut_victim", str(BATCHES))
    made = [Path(call.result_target).suffix for call in run.calls if "O_CREAT" in call.arguments]
    assert made.count(".log") >= 4
    assert made.count(".sst") > 10
    return run


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_the_log_acknowledged_is_there_after_a_power_cut(
    logged: Run, tmp_path: Path, seed: int
) -> None:
    gained = 0
    for number, (image, told, where) in enumerate(_images(logged, tmp_path, seed, IMAGES // 2)):
        log = open_log(image)
        assert _missing(log, told) == [], where
        gained += log.end(events(0)) > told.last("events 0")
        if number % 8 == 0:  # and it can be gone on with
            end = log.end(events(0))
            assert log.append_and_wait(events(0), [Entry(b"k", b"v")]).first_offset == end
            log.close()
            log = open_log(image)
            assert log.end(events(0)) == end + 1, where
        log.close()
    assert gained > 0, "something written and not acknowledged must have survived now and then"


def test_a_log_that_does_not_sync_is_caught(tmp_path: Path) -> None:
    run = _run(tmp_path, "log_power_cut_victim", "30", "unsynced")
    caught = 0
    for image, told, _ in _images(run, tmp_path / "images", 3, 20):
        try:
            log = open_log(image)
        except DamagedStore:  # it knows better than its file system
            caught += 1
            continue
        caught += bool(_missing(log, told))
        log.close()
    assert caught > 5


def test_whatever_a_shard_store_synced_is_there_after_a_power_cut(stored: Run, tmp_path: Path) -> None:
    holes = gained = 0
    for image, told, where in _images(stored, tmp_path, 4):
        synced = told.last("synced", -1)
        try:
            store = open_store(image)
        except DamagedStore as refusal:
            # A write-ahead log that ended unsynced was lost, and a part of the next one was not. That is a
            # hole above everything synced: noticed, and healed from the log.
            hole = re.search(r"batch (\d+) of \d+ is missing", str(refusal))
            if hole is None or int(hole[1]) <= synced + 1:
                pytest.fail(f"{refusal}; {where}")
            holes += 1
            continue
        found = check(store)
        store.close()
        assert found >= synced, where
        gained += found > synced
    assert gained > 0
    assert holes <= IMAGES // 10


class TestTheDiskItself:
    """The model forgets what nobody synced, and nothing else; made of hand-written calls."""

    ROOT = Path("/disk")

    def _left(self, calls: Callable[["Script"], None], target: Path, seed: int = 0) -> dict[str, bytes]:
        script = Script()
        calls(script)
        disk = PowerCutDisk(self.ROOT)
        for call in script.calls:
            disk.apply(call)
        disk.leave(target, random.Random(seed))
        return {
            str(file.relative_to(target)): file.read_bytes() for file in target.rglob("*") if file.is_file()
        }

    def _every(self, calls: Callable[["Script"], None], target: Path) -> list[dict[str, bytes]]:
        return [self._left(calls, target / str(seed), seed) for seed in range(60)]

    def test_synced_bytes_under_a_synced_name_stay(self, tmp_path: Path) -> None:
        def calls(script: "Script") -> None:
            script.create(5, "/disk/a")
            script.write(5, b"kept")
            script.sync(5, "/disk/a")
            script.sync(6, "/disk")
            script.write(5, b"more")

        left = self._every(calls, tmp_path)
        assert all(files["a"].startswith(b"kept") for files in left)
        assert {b"kept", b"keptmore"} < {files["a"] for files in left}, "torn ones too"

    def test_a_name_that_was_not_synced_may_be_gone_with_its_bytes(self, tmp_path: Path) -> None:
        def calls(script: "Script") -> None:
            script.create(5, "/disk/a")
            script.write(5, b"x")
            script.sync(5, "/disk/a")

        assert {len(files) for files in self._every(calls, tmp_path)} == {0, 1}

    def test_a_renamed_file_is_there_under_one_of_its_names(self, tmp_path: Path) -> None:
        def calls(script: "Script") -> None:
            script.create(5, "/disk/a")
            script.sync(5, "/disk/a")
            script.sync(6, "/disk")
            script.call("rename", -1, "", (b"/disk/a", b"/disk/b"))

        assert {tuple(files) for files in self._every(calls, tmp_path)} == {("a",), ("b",)}

    def test_a_deleted_file_may_be_back(self, tmp_path: Path) -> None:
        def calls(script: "Script") -> None:
            script.create(5, "/disk/a")
            script.sync(6, "/disk")
            script.call("unlink", -1, "", (b"/disk/a",))

        assert {tuple(files) for files in self._every(calls, tmp_path)} == {("a",), ()}

    def test_a_torn_overwrite_keeps_whole_sectors(self, tmp_path: Path) -> None:
        def calls(script: "Script") -> None:
            script.create(5, "/disk/a")
            script.write(5, b"a" * 2_048)
            script.sync(5, "/disk/a")
            script.sync(6, "/disk")
            script.call("pwrite64", 5, "/disk/a", (b"b" * 2_048,), 2_048, "5, ..., 2048, 0")

        found = {(files["a"].count(b"b"), len(files["a"])) for files in self._every(calls, tmp_path)}
        assert {length for _, length in found} == {2_048}
        assert all(count % 512 == 0 for count, _ in found)
        assert len(found) > 3


class Script:
    """Calls, written by hand."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def call(
        self,
        name: str,
        descriptor: int,
        target: str,
        texts: tuple[bytes, ...] = (),
        result: int = 0,
        arguments: str = "",
    ) -> None:
        at = len(self.calls)
        self.calls.append(Call(name, descriptor, target, texts, arguments, result, "", at, at))

    def create(self, descriptor: int, path: str) -> None:
        at = len(self.calls)
        self.calls.append(Call("openat", -1, "", (), "O_CREAT", descriptor, path, at, at))

    def write(self, descriptor: int, data: bytes) -> None:
        self.call("write", descriptor, "", (data,), len(data))

    def sync(self, descriptor: int, target: str) -> None:
        self.call("fsync", descriptor, target)
