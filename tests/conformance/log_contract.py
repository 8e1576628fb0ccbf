"""What every `Log` promises. One class of facts; each implementation's test file gives it a world.

Nothing here knows which log it runs against: offsets may have gaps (a Kafka transaction marker takes one),
acknowledgements come from another thread, records show up some time after them, and compaction happens when
the log likes. So the tests read with a deadline, and compare contents and order, never offsets with counts.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

import pytest

from dataflows.connectors.log.port import (
    Appended,
    Entry,
    GroupOffset,
    Log,
    OffsetOutOfRange,
    Reader,
    Record,
    TopicPartition,
)
from schemas.errors import HooktideError, LogUnavailable

EVENTS = TopicPartition("events", 0)
EVENTS_1 = TopicPartition("events", 1)
ENDPOINTS = TopicPartition("endpoints", 0)
PARTITIONS = {"events": 2, "deliveries": 3, "endpoints": 1}
DEADLINE_S = 20.0


class World(Protocol):
    """One empty log, that a test may close and open again."""

    def open(self) -> Log:
        """Returns the log, open; what was stored before is there."""

    def drop_all(self, log: Log, of: TopicPartition) -> None:
        """Makes the log forget everything in a partition of a timed topic, as retention does."""


class Acks:
    """Collects what the log answers, in the order in which it answers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.answers: list[tuple[object, Appended | HooktideError]] = []

    def of(self, name: object) -> Callable[[Appended | HooktideError], None]:
        def on_appended(answer: Appended | HooktideError) -> None:
            with self._changed:
                self.answers.append((name, answer))
                self._changed.notify_all()

        return on_appended

    def wait_for(self, count: int) -> list[tuple[object, Appended]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= count, DEADLINE_S), self.answers
            assert len(self.answers) == count
            good = [(name, answer) for name, answer in self.answers if isinstance(answer, Appended)]
            assert len(good) == count, self.answers
            return good


def read_until(
    reader: Reader, of: TopicPartition, end: int, records_max: int = 1_000, deadline_s: float = DEADLINE_S
) -> list[Record]:
    """Returns everything up to `end`, which the reader's position must reach before the deadline."""
    records: list[Record] = []
    give_up_at = time.monotonic() + deadline_s
    while reader.position(of) < end:
        assert time.monotonic() < give_up_at, f"stuck at {reader.position(of)} of {end}"
        polled = reader.poll(of, records_max)
        assert len(polled) <= records_max
        records.extend(polled)
    return records


def read_all(log: Log, of: TopicPartition) -> list[Record]:
    """Returns everything that the partition holds."""
    reader = log.reader({of: log.start(of)})
    try:
        return read_until(reader, of, log.end(of))
    finally:
        reader.close()


def entries(*values: str) -> list[Entry]:
    return [Entry(b"key", value.encode()) for value in values]


def values_of(records: list[Record]) -> list[str]:
    return [(record.value or b"").decode() for record in records]


class LogContract:
    """The facts. A subclass provides the fixture `world`."""

    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError

    @pytest.fixture
    def log(self, world: World) -> Log:
        return world.open()

    # --- appending -----------------------------------------------------------------------------------------

    def test_an_acknowledged_append_is_read_back_as_it_was(self, log: Log) -> None:
        sent = [
            Entry(b"a", b"1"),
            Entry(None, b"2"),
            Entry(b"", b""),
            Entry(b"d", None),
            Entry(b"\xff\x00", b"\x00"),
        ]
        appended = log.append_and_wait(EVENTS, sent)
        records = read_all(log, EVENTS)
        assert [Entry(record.key, record.value) for record in records] == sent
        assert records[0].offset == appended.first_offset
        assert {record.timestamp_ms for record in records} == {appended.timestamp_ms}

    def test_offsets_rise_and_appends_of_one_thread_keep_their_order(self, log: Log) -> None:
        acks = Acks()
        for number in range(200):
            log.append(EVENTS, entries(f"{number}a", f"{number}b"), acks.of(number))
        answered = acks.wait_for(200)
        assert [name for name, _ in answered] == list(range(200))
        records = read_all(log, EVENTS)
        assert values_of(records) == [f"{number}{half}" for number in range(200) for half in "ab"]
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets))
        by_offset = {record.offset: record for record in records}
        for name, answer in answered:
            assert by_offset[answer.first_offset].value == f"{name}a".encode()
            assert by_offset[answer.first_offset + 1].value == f"{name}b".encode()

    def test_record_times_never_go_back(self, log: Log) -> None:
        for number in range(20):
            log.append_and_wait(EVENTS, entries(str(number)))
        times = [record.timestamp_ms for record in read_all(log, EVENTS)]
        assert times == sorted(times)

    def test_a_record_is_never_seen_before_its_acknowledgement_stands(self, world: World) -> None:
        log = world.open()
        seen_at_ack: Future[int] = Future()

        def on_appended(answer: Appended | HooktideError) -> None:
            seen_at_ack.set_result(log.end(EVENTS) if isinstance(answer, Appended) else -1)

        log.append(EVENTS, entries("only"), on_appended)
        # What can be read is durable: it is still there when the log is closed and opened again.
        reader = log.reader({EVENTS: log.start(EVENTS)})
        give_up_at = time.monotonic() + DEADLINE_S
        while not (found := list(reader.poll(EVENTS, 10))):
            assert time.monotonic() < give_up_at
        assert seen_at_ack.result(DEADLINE_S) > found[0].offset
        reader.close()
        log.close()
        assert read_all(world.open(), EVENTS) == found

    def test_appends_of_several_threads_are_all_there_each_thread_in_order(self, log: Log) -> None:
        acks = Acks()

        def append(thread: int) -> None:
            for number in range(50):
                log.append(EVENTS, entries(f"{thread}:{number}"), acks.of((thread, number)))

        threads = [threading.Thread(target=append, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        acks.wait_for(200)
        numbers: dict[str, list[int]] = defaultdict(list)
        for value in values_of(read_all(log, EVENTS)):
            thread_name, number = value.split(":")
            numbers[thread_name].append(int(number))
        assert numbers == {str(thread): list(range(50)) for thread in range(4)}

    def test_a_megabyte_is_a_value_like_any_other(self, log: Log) -> None:
        big = bytes(range(256)) * 4_096
        log.append_and_wait(EVENTS, [Entry(b"big", big), Entry(b"small", b"after")], timeout_s=DEADLINE_S)
        assert [record.value for record in read_all(log, EVENTS)] == [big, b"after"]

    def test_partitions_and_topics_are_separate(self, log: Log) -> None:
        log.append_and_wait(EVENTS, entries("zero"))
        log.append_and_wait(EVENTS_1, entries("one"))
        log.append_and_wait(TopicPartition("deliveries", 0), entries("delivery"))
        assert values_of(read_all(log, EVENTS)) == ["zero"]
        assert values_of(read_all(log, EVENTS_1)) == ["one"]
        assert values_of(read_all(log, TopicPartition("deliveries", 0))) == ["delivery"]
        assert {topic: log.partition_count(topic) for topic in PARTITIONS} == PARTITIONS

    def test_appending_to_a_closed_log_is_an_error(self, world: World) -> None:
        log = world.open()
        log.close()
        with pytest.raises(LogUnavailable):
            log.append_and_wait(EVENTS, entries("late"))

    def test_closing_acknowledges_what_was_queued(self, world: World) -> None:
        log = world.open()
        acks = Acks()
        for number in range(100):
            log.append(EVENTS, entries(str(number)), acks.of(number))
        log.close()
        acks.wait_for(100)
        assert values_of(read_all(world.open(), EVENTS)) == [str(number) for number in range(100)]

    # --- reading -------------------------------------------------------------------------------------------

    def test_an_empty_partition_starts_where_it_ends(self, log: Log) -> None:
        assert log.start(EVENTS) == log.end(EVENTS)
        reader = log.reader({EVENTS: log.start(EVENTS)})
        assert not reader.poll(EVENTS, 10)
        assert reader.position(EVENTS) == log.end(EVENTS)
        reader.close()

    def test_a_reader_continues_where_it_stopped_and_waits_at_the_end(self, log: Log) -> None:
        log.append_and_wait(EVENTS, entries(*map(str, range(25))))
        reader = log.reader({EVENTS: log.start(EVENTS)})
        first = read_until(reader, EVENTS, log.end(EVENTS), records_max=7)
        assert reader.position(EVENTS) == log.end(EVENTS)
        assert not reader.poll(EVENTS, 7)
        log.append_and_wait(EVENTS, entries("next"))
        then = read_until(reader, EVENTS, log.end(EVENTS))
        assert values_of(first + then) == [*map(str, range(25)), "next"]
        reader.close()

    def test_a_reader_may_start_at_any_record(self, log: Log) -> None:
        log.append_and_wait(EVENTS, entries(*map(str, range(10))))
        for number, record in enumerate(read_all(log, EVENTS)):
            reader = log.reader({EVENTS: record.offset})
            found = read_until(reader, EVENTS, log.end(EVENTS))
            assert values_of(found) == [str(later) for later in range(number, 10)]
            reader.close()

    def test_one_reader_reads_several_partitions_each_at_its_own_position(self, log: Log) -> None:
        log.append_and_wait(EVENTS, entries("a", "b"))
        log.append_and_wait(EVENTS_1, entries("c"))
        reader = log.reader({of: log.start(of) for of in (EVENTS, EVENTS_1)})
        assert values_of(read_until(reader, EVENTS_1, log.end(EVENTS_1))) == ["c"]
        assert values_of(read_until(reader, EVENTS, log.end(EVENTS))) == ["a", "b"]
        reader.close()

    def test_several_readers_on_several_threads_read_the_same(self, log: Log) -> None:
        log.append_and_wait(EVENTS, entries(*map(str, range(500))))
        found: list[list[str]] = []

        def read() -> None:
            found.append(values_of(read_all(log, EVENTS)))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [[*map(str, range(500))]] * 4

    def test_a_position_above_the_end_is_told_and_not_waited_for(self, log: Log) -> None:
        log.append_and_wait(EVENTS, entries("a"))
        self._assert_out_of_range(log, log.end(EVENTS) + 5)

    def test_a_position_below_the_start_is_told_and_never_jumps(self, world: World) -> None:
        log = world.open()
        log.append_and_wait(EVENTS, entries(*map(str, range(10))))
        forgotten = read_all(log, EVENTS)[3].offset
        world.drop_all(log, EVENTS)
        assert log.start(EVENTS) == log.end(EVENTS)
        self._assert_out_of_range(log, forgotten)
        log.append_and_wait(EVENTS, entries("new"))
        assert values_of(read_all(log, EVENTS)) == ["new"]
        self._assert_out_of_range(log, forgotten)

    def test_the_end_and_the_start_stand_after_everything_was_dropped_and_the_log_restarted(
        self, world: World
    ) -> None:
        log = world.open()
        log.append_and_wait(EVENTS, entries(*map(str, range(10))))
        world.drop_all(log, EVENTS)
        end = log.end(EVENTS)
        log.close()
        log = world.open()
        assert (log.start(EVENTS), log.end(EVENTS)) == (end, end)
        assert log.append_and_wait(EVENTS, entries("new")).first_offset >= end

    def test_a_time_finds_the_first_record_at_or_after_it(self, log: Log) -> None:
        for number in range(30):
            log.append_and_wait(EVENTS, entries(*[str(number)] * (number % 3 + 1)))
        records = read_all(log, EVENTS)
        assert log.offset_for_time(EVENTS, 0) == records[0].offset
        for at_ms in {record.timestamp_ms + step for record in records for step in (-1, 0, 1)}:
            first = next(
                (record.offset for record in records if record.timestamp_ms >= at_ms), log.end(EVENTS)
            )
            assert log.offset_for_time(EVENTS, at_ms) == first
        assert log.offset_for_time(EVENTS, records[-1].timestamp_ms + 3_600_000) == log.end(EVENTS)
        assert log.offset_for_time(EVENTS_1, 0) == log.end(EVENTS_1)

    # --- groups --------------------------------------------------------------------------------------------

    def test_a_group_finds_its_position_and_words_again(self, world: World) -> None:
        log = world.open()
        log.append_and_wait(EVENTS, entries("a", "b"))
        assert log.committed("route", EVENTS) is None
        log.commit("route", {EVENTS: GroupOffset(log.start(EVENTS), "first")})
        second = GroupOffset(log.end(EVENTS), "stamp: 7, Grüße")
        log.commit("route", {EVENTS: second})
        assert log.committed("route", EVENTS) == second
        log.close()
        log = world.open()
        assert log.committed("route", EVENTS) == second
        assert log.committed("route", EVENTS_1) is None
        assert log.committed("record", EVENTS) is None

    def test_a_commit_over_several_partitions_is_whole(self, world: World) -> None:
        log = world.open()
        deliveries = [TopicPartition("deliveries", partition) for partition in range(3)]
        for of in deliveries:
            log.append_and_wait(of, entries("a"))
        for number in range(5):
            log.commit("deliver", {of: GroupOffset(log.end(of), str(number)) for of in deliveries})
            stored = [log.committed("deliver", of) for of in deliveries]
            assert stored == [GroupOffset(log.end(of), str(number)) for of in deliveries]
        log.close()
        log = world.open()
        assert {position.metadata for of in deliveries if (position := log.committed("deliver", of))} == {"4"}

    # --- compacted topics ----------------------------------------------------------------------------------

    def test_compaction_keeps_the_last_record_of_every_key(self, world: World) -> None:
        log = world.open()
        expected: dict[bytes, bytes | None] = {}
        for number in range(60):
            key = b"ep_%d" % (number % 7)
            expected[key] = None if number % 11 == 10 else b"%d" % number
            log.append_and_wait(ENDPOINTS, [Entry(key, expected[key])])
        assert self._folded(log) == expected
        log.close()
        assert self._folded(world.open()) == expected

    def test_the_last_of_one_block_wins(self, log: Log) -> None:
        log.append_and_wait(
            ENDPOINTS, [Entry(b"a", b"1"), Entry(b"b", b"1"), Entry(b"a", b"2"), Entry(b"a", b"3")]
        )
        assert self._folded(log) == {b"a": b"3", b"b": b"1"}

    def test_a_reader_of_a_compacted_topic_reaches_the_end_over_its_holes(self, log: Log) -> None:
        for number in range(10):
            log.append_and_wait(ENDPOINTS, [Entry(b"same", b"%d" % number)])
        reader = log.reader({ENDPOINTS: log.start(ENDPOINTS)})
        found = read_until(reader, ENDPOINTS, log.end(ENDPOINTS), records_max=2)
        assert found[-1].value == b"9"
        assert reader.position(ENDPOINTS) == log.end(ENDPOINTS)
        reader.close()

    # --- for ever ------------------------------------------------------------------------------------------

    def test_a_restart_keeps_records_ends_and_the_cluster_id(self, world: World) -> None:
        log = world.open()
        cluster_id = log.cluster_id
        log.append_and_wait(EVENTS, entries("a", "b", "c"))
        before = read_all(log, EVENTS)
        end = log.end(EVENTS)
        log.close()
        log = world.open()
        assert cluster_id
        assert log.cluster_id == cluster_id
        assert log.end(EVENTS) == end
        assert read_all(log, EVENTS) == before
        assert log.append_and_wait(EVENTS, entries("d")).first_offset >= end
        assert values_of(read_all(log, EVENTS)) == ["a", "b", "c", "d"]

    def _assert_out_of_range(self, log: Log, offset: int) -> None:
        reader = log.reader({EVENTS: offset})
        give_up_at = time.monotonic() + DEADLINE_S
        with pytest.raises(OffsetOutOfRange) as raised:  # noqa: PT012 - a broker may need a few polls to say so
            while time.monotonic() < give_up_at:
                assert not reader.poll(EVENTS, 10)
        assert (raised.value.of, raised.value.offset) == (EVENTS, offset)
        reader.close()

    def _folded(self, log: Log) -> dict[bytes, bytes | None]:
        return {record.key or b"": record.value for record in read_all(log, ENDPOINTS)}
