"""The local log's world: a directory, a clock that moves when a test says so, and images of a kill."""

import shutil
from pathlib import Path

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Log, TopicPartition
from schemas.topics import DAY_MS
from tests.conformance.log_contract import (
    PARTITIONS,
)

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
