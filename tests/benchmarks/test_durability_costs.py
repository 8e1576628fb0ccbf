"""What durability costs: the figures of docs/guarantees.md.

`./hooktide test -m benchmark -s -k durability` prints them. They are medians on a disk that others use too:
ratios count, not digits.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from dataflows.connectors.delivery_log.chdb import ChdbLog
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Appended, Entry, TopicPartition
from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.rocks_options import StoreMemory
from operators.shard.store_port import Family
from schemas.errors import HooktideError
from tests.conformance.delivery_log_contract import put

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(120)]

EVENTS = TopicPartition("events", 0)
VALUE = bytes(1_000)
TIMES = 300
SHARDS = 8


def _say(what: str, figure: float, unit: str) -> None:
    print(f"{what:70} {figure:10.3f} {unit}")  # noqa: T201 - a benchmark prints


def _median_ms(action: Callable[[], object], times: int = TIMES) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1_000


@pytest.fixture
def open_log(tmp_path: Path) -> Iterator[Callable[[float], LocalLog]]:
    opened, numbers = [], count()

    def make(linger_ms: float) -> LocalLog:
        log = LocalLog.open(
            tmp_path / f"log-{next(numbers)}",
            partitions={"events": 1},
            clock_ms=lambda: time.time_ns() // 1_000_000,
            linger_ms=linger_ms,
        )
        opened.append(log)
        return log

    yield make
    for log in opened:
        log.close()


@pytest.mark.parametrize("linger_ms", [0.0, 2.0, 10.0])
def test_durability_of_an_append(open_log: Callable[[float], LocalLog], linger_ms: float) -> None:
    log = open_log(linger_ms)
    one = [Entry(None, VALUE)]
    _say(
        f"append of 1 KB, alone, linger_ms {linger_ms:g}",
        _median_ms(lambda: log.append_and_wait(EVENTS, one)),
        "ms",
    )
    room, answers, waits = threading.Semaphore(64), [], []

    def append() -> None:
        began = time.perf_counter()

        def answered(answer: Appended | HooktideError) -> None:
            waits.append(time.perf_counter() - began)
            answers.append(answer)
            room.release()

        room.acquire()
        log.append(EVENTS, one, answered)

    began = time.perf_counter()
    for _ in range(10_000):
        append()
    while len(answers) < 10_000:
        time.sleep(0.001)
    _say("  the same, 64 on the way", 10_000 / (time.perf_counter() - began), "per s")
    assert all(isinstance(answer, Appended) for answer in answers)


def test_durability_of_an_append_left_out(
    open_log: Callable[[float], LocalLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(2.0)
    monkeypatch.setattr(log._database, "_sync", lambda: None)
    one = [Entry(None, VALUE)]
    _say(
        "append of 1 KB, alone, not synced at all", _median_ms(lambda: log.append_and_wait(EVENTS, one)), "ms"
    )


def test_durability_of_a_shard(tmp_path: Path) -> None:
    memory = StoreMemory()
    stores = [
        RocksStore.open(tmp_path / f"{shard}", shard=shard, shard_count=SHARDS, memory=memory)
        for shard in range(SHARDS)
    ]
    numbers = count()

    def write() -> None:
        for store in stores:
            batch = store.batch()
            batch.put(Family.OUTBOX, next(numbers).to_bytes(8, "big"), VALUE)
            store.write(batch)

    def write_and_sync() -> None:
        write()
        for store in stores:
            store.sync()

    alone = _median_ms(write)
    began = time.process_time()
    both = _median_ms(write_and_sync)
    cpu = (time.process_time() - began) / TIMES * 1_000
    _say(f"a batch for each of {SHARDS} shards, written", alone, "ms")
    _say(f"a batch for each of {SHARDS} shards, written and synced", both, "ms")
    _say("  CPU of that", cpu, "ms")
    for store in stores:
        store.close()


def test_durability_of_the_delivery_log(tmp_path: Path) -> None:
    log = ChdbLog(tmp_path / "delivery_log")
    log.migrate()
    numbers = count()

    def insert() -> None:
        put(log, "transitions", *({"delivery_id": f"dlv_{next(numbers)}"} for _ in range(1_000)))

    _say("1,000 rows into the delivery log, synced", _median_ms(insert, 40), "ms")
    log._execute("ALTER TABLE transitions MODIFY SETTING fsync_after_insert = 0, fsync_part_directory = 0")
    _say("1,000 rows into the delivery log, not synced", _median_ms(insert, 40), "ms")
    log.close()


def test_durability_of_the_disk_itself(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:

        def write_and_sync() -> None:
            file.write(VALUE)
            file.flush()
            os.fdatasync(file.fileno())

        _say("1 KB written to a file and fdatasync", _median_ms(write_and_sync), "ms")
