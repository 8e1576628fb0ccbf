"""What the local log forgets: records past their retention, replaced ones, old tombstones; and its bytes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.connectors.log import local_database
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.local_compaction import REPLACED_MS, TOMBSTONE_MS
from dataflows.connectors.log.local_keys import (
    decode_record,
    encode_record,
    pack_u64,
)
from dataflows.connectors.log.port import Entry, OffsetOutOfRange
from schemas.errors import (
    DamagedStore,
    FormatMismatch,
)
from schemas.topics import DAY_MS
from tests.conformance.local_world import START_MS, LocalWorld
from tests.conformance.log_contract import (
    ENDPOINTS,
    EVENTS,
    entries,
    read_all,
    values_of,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LocalWorld]:
    made = LocalWorld(tmp_path / "log")
    yield made
    made.close()


def pairs(log: LocalLog) -> list[tuple[bytes | None, bytes | None]]:
    return [(record.key, record.value) for record in read_all(log, ENDPOINTS)]


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
        assert pairs(log) == [
            (b"b", b"1"),
            (b"a", b"2"),
        ]

    def test_a_tombstone_is_readable_for_a_day_and_then_gone(self, world: LocalWorld) -> None:
        log = world.open()
        log.append_and_wait(
            ENDPOINTS, [Entry(b"a", b"1"), Entry(b"b", b"1"), Entry(b"a", None), Entry(b"b", None)]
        )
        log.append_and_wait(ENDPOINTS, [Entry(b"b", b"2")])
        log.enforce_retention(world.now_ms + TOMBSTONE_MS)
        assert pairs(log) == [
            (b"a", None),
            (b"b", b"2"),
        ]
        log.enforce_retention(world.now_ms + TOMBSTONE_MS + 1)
        assert pairs(log) == [(b"b", b"2")]
        log.append_and_wait(ENDPOINTS, [Entry(b"b", None)])
        log.enforce_retention(world.now_ms + TOMBSTONE_MS + 1)
        end = log.end(ENDPOINTS)
        log.close()
        log = world.open()  # the last record is gone, the end is not
        assert (read_all(log, ENDPOINTS), log.end(ENDPOINTS)) == ([], end)
        for family in (local_database.LATEST, local_database.GRAVES):
            assert list(log._database.families[family].keys()) == []

    def test_a_stale_index_row_never_takes_another_keys_record_along(self, world: LocalWorld) -> None:
        """A failed write may leave an index row behind, and its offset goes to another key."""
        log = world.open()
        log.append_and_wait(ENDPOINTS, [Entry(b"b", b"alive")])
        prefix = log._states[ENDPOINTS].prefix
        log._database.families[local_database.LATEST].put(prefix + b"a", pack_u64(0))
        log.append_and_wait(ENDPOINTS, [Entry(b"a", b"1")])
        log.enforce_retention(world.now_ms + REPLACED_MS + 1)
        assert pairs(log) == [(b"b", b"alive"), (b"a", b"1")]

    def test_more_is_forgotten_than_one_batch_takes(self, world: LocalWorld) -> None:
        log = world.open()
        for value in (b"1", b"2", None):
            log.append_and_wait(ENDPOINTS, [Entry(b"%d" % key, value) for key in range(2_500)])
        assert log.enforce_retention(world.now_ms + TOMBSTONE_MS + 1) == 3 * 2_500
        assert read_all(log, ENDPOINTS) == []


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
    st.tuples(
        st.sampled_from(["append", "append", "delete", "wait", "retain", "restart"]), st.integers(0, 5)
    ),
    max_size=25,
)


class TestModel:
    @given(steps=STEPS)
    @settings(max_examples=25, deadline=None)
    def test_any_history_folds_to_what_was_written_last(
        self, steps: list[Step], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Whatever is appended, dropped and restarted: a compacted topic says every key's last value."""
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
