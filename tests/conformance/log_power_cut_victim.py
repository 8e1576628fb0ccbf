"""A process that appends to a local log and tells what was acknowledged, for a trace of its system calls.

`python -m tests.conformance.log_power_cut_victim DIRECTORY APPENDS [unsynced]`

Two threads append to two partitions of `events` with some blocks on the way, one appends endpoints, and
positions are committed; memtables are tiny, so write-ahead logs end, tables are written and files deleted
all the time. An acknowledgement is a line on standard output, written from the log's callback: a system call
like the others, so that the trace says what was acknowledged before which power cut. With `unsynced` the log
writes without syncing, which a test has to notice.
"""

import os
import sys
import threading
import time
from pathlib import Path
from zlib import crc32

from rocksdict import Cache, Options

from dataflows.connectors.log import local_database
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Appended, Entry, GroupOffset, OnAppended, TopicPartition
from schemas.errors import HooktideError

PARTITIONS = {"events": 2, "deliveries": 3, "endpoints": 1}
ENDPOINTS = TopicPartition("endpoints", 0)
GROUP = "group"
MEMTABLE_BYTES = 24 << 10
WAL_BYTES = 64 << 10
_ON_THE_WAY = 6


def events(partition: int) -> TopicPartition:
    """Returns a partition of `events`."""
    return TopicPartition("events", partition)


def value_of(number: int) -> bytes:
    """Returns the value of record `number` of a partition of `events`; crc32 of it is its key."""
    return b"%d:" % number + b"x" * (number * 37 % 900)


def block(first: int) -> list[Entry]:
    """Returns the entries that are appended together, from `first` on."""
    values = [value_of(number) for number in range(first, first + 1 + first % 4)]
    return [Entry(b"%d" % crc32(value), value) for value in values]


def open_log(directory: Path) -> LocalLog:
    """Opens the log as the victim does, but for the size of its memtables."""
    return LocalLog.open(
        directory, partitions=PARTITIONS, clock_ms=lambda: time.time_ns() // 1_000_000, linger_ms=0.5
    )


def _say(words: bytes) -> None:
    os.write(1, words + b"\n")


def _append_events(log: LocalLog, partition: int, appends: int) -> None:
    of, room, number = events(partition), threading.Semaphore(_ON_THE_WAY), 0

    def on_appended(first: int, end: int) -> OnAppended:
        def acknowledged(answer: Appended | HooktideError) -> None:
            assert isinstance(answer, Appended), answer
            assert answer.first_offset == first
            _say(b"events %d %d" % (partition, end))
            room.release()

        return acknowledged

    for turn in range(appends):
        room.acquire()
        entries = block(number)
        end = number + len(entries)
        log.append(of, entries, on_appended(number, end))
        number = end
        if turn % 8 == 7:
            offset = log.end(of)
            log.commit(GROUP, {of: GroupOffset(offset, "")})
            _say(b"commit %d %d" % (partition, offset))
    for _ in range(_ON_THE_WAY):
        room.acquire()


def _append_endpoints(log: LocalLog, appends: int) -> None:
    for revision in range(appends):
        log.append_and_wait(ENDPOINTS, [Entry(b"ep_%d" % (revision % 3), b"%d" % revision)])
        _say(b"endpoints %d" % revision)


def main() -> None:
    """Appends, and closes the log."""
    directory, appends = Path(sys.argv[1]), int(sys.argv[2])
    tuned = local_database._options

    def small(cache: Cache, write_buffer_bytes: int) -> Options:
        options = tuned(cache, min(write_buffer_bytes, MEMTABLE_BYTES))
        options.set_max_total_wal_size(WAL_BYTES)
        return options

    local_database._options = small
    log = open_log(directory)
    if sys.argv[3:] == ["unsynced"]:
        log._database._sync = lambda: None  # type: ignore[method-assign]
    threads = [
        threading.Thread(target=_append_events, args=(log, 0, appends)),
        threading.Thread(target=_append_events, args=(log, 1, appends)),
        threading.Thread(target=_append_endpoints, args=(log, appends // 2)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    _say(b"closed")


if __name__ == "__main__":
    main()
