"""The log watch: a log that cannot be written ends the process, a single slip does not."""

import threading
from pathlib import Path

from dataflows.connectors.log.local import LocalLog
from deploy.process.embedded_parts import partition_counts
from deploy.process.log_watch import FAILURES_MAX, LogWatch
from schemas.errors import LogUnavailable
from schemas.settings import Settings


def open_log(directory: Path) -> LocalLog:
    return LocalLog.open(directory, partitions=partition_counts(Settings()), clock_ms=lambda: 1)


def test_a_log_that_refuses_writes_is_reported_once_with_its_reason(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    deaths: list[tuple[str, BaseException]] = []
    died = threading.Event()

    def on_death(name: str, error: BaseException) -> None:
        deaths.append((name, error))
        died.set()

    watch = LogWatch(log, on_death, probe_s=0.001)
    log.close()  # the nearest thing to a log that takes no more writes
    watch.start()

    assert died.wait(10)
    watch.close()

    assert [name for name, _ in deaths] == ["the log"]
    assert isinstance(deaths[0][1], LogUnavailable)
    assert watch.is_failing
    assert FAILURES_MAX > 1


def test_a_log_that_works_is_left_alone(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    deaths: list[str] = []
    watch = LogWatch(log, lambda name, _: deaths.append(name), probe_s=0.001)
    watch.start()
    while watch.success_count < FAILURES_MAX + 1:
        assert not deaths
    watch.close()
    log.close()

    assert not watch.is_failing
    assert not deaths
