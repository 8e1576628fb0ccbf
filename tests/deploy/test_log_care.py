"""The care of the log: one that cannot be written ends the process, and retention is enforced."""

import threading
from pathlib import Path

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Entry, TopicPartition
from deploy.process.embedded_parts import partition_counts
from deploy.process.log_care import LogCare
from schemas.errors import LogUnavailable
from schemas.settings import Settings
from schemas.topics import EVENTS

OF = TopicPartition(EVENTS.name, 0)
START_MS = 1_790_000_000_000


def open_log(directory: Path) -> LocalLog:
    return LocalLog.open(directory, partitions=partition_counts(Settings()), clock_ms=lambda: START_MS)


def test_a_log_that_refuses_writes_is_reported_once_with_its_reason(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    deaths: list[tuple[str, BaseException]] = []
    died = threading.Event()

    def on_death(name: str, error: BaseException) -> None:
        deaths.append((name, error))
        died.set()

    care = LogCare(log, on_death, lambda: START_MS, try_s=0.001)
    log.close()  # the nearest thing to a log that takes no more writes
    care.start()
    assert died.wait(10)
    care.close()

    assert [name for name, _ in deaths] == ["the log"]
    assert isinstance(deaths[0][1], LogUnavailable)
    assert (care.is_failing, care.success_count) == (True, 0)


def test_a_log_that_works_is_left_alone_and_forgets_in_time(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    assert EVENTS.retention_ms is not None
    log.append_and_wait(OF, [Entry(b"k", b"v")])
    now_ms = [START_MS + EVENTS.retention_ms]
    deaths: list[str] = []
    care = LogCare(log, lambda name, _: deaths.append(name), lambda: now_ms[0], try_s=0.001, retention_s=0.0)
    care.start()

    await_tries(care, 5)
    assert log.start(OF) == 0
    now_ms[0] += 1
    await_tries(care, 2)
    care.close()

    assert log.start(OF) == 1
    assert not deaths
    assert not care.is_failing
    log.close()


def await_tries(care: LogCare, count: int) -> None:
    """Waits for more tries; the time limit of the tests ends a wait that has no end."""
    until = care.success_count + count
    while care.success_count < until:
        threading.Event().wait(0.001)
