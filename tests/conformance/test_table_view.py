"""A table view says what its topic says, from any thread, and never goes past what it cannot read."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.local_compaction import REPLACED_MS, TOMBSTONE_MS
from dataflows.connectors.log.port import Entry, TopicPartition
from dataflows.connectors.table_view import TableView
from schemas.errors import FormatMismatch, UnreadableRecord

TOPIC = TopicPartition("endpoints", 0)
NOW_MS = 1_700_000_000_000
Change = tuple[str, int | None, int | None]


def decode(raw: bytes) -> int:
    try:
        return int(raw)
    except ValueError as error:
        raise UnreadableRecord(f"{raw!r} is no number") from error


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LocalLog]:
    opened = LocalLog.open(tmp_path / "log", partitions={"endpoints": 1}, clock_ms=lambda: NOW_MS)
    yield opened
    opened.close()


@pytest.fixture
def put(log: LocalLog) -> Callable[..., int]:
    def put_values(**values: int | bytes | None) -> int:
        raw = {key: b"%d" % value if isinstance(value, int) else value for key, value in values.items()}
        log.append_and_wait(TOPIC, [Entry(key.encode(), value) for key, value in raw.items()])
        return log.end(TOPIC)

    return put_values


def test_a_view_is_built_from_the_start_and_follows(log: LocalLog, put: Callable[..., int]) -> None:
    put(a=1, b=2)
    view = TableView(log, "endpoints", decode)
    assert view.get("a") is None
    assert view.catch_up() == 2
    assert (view.get("a"), view.get("b"), view.get("c")) == (1, 2, None)
    put(a=3, b=None)
    assert view.get("a") == 1
    assert view.catch_up() == 2
    assert dict(view.items()) == {"a": 3}
    assert len(view) == 1
    assert view.catch_up() == 0
    view.close()


def test_it_says_up_to_where_it_is_complete(log: LocalLog, put: Callable[..., int]) -> None:
    first = put(a=1)
    view = TableView(log, "endpoints", decode)
    assert not view.reached(first)
    view.catch_up()
    assert view.reached(first)
    assert view.position == first
    assert not view.reached(first + 1)
    assert put(a=2) == first + 1
    assert not view.reached(first + 1)
    view.catch_up()
    assert view.reached(first + 1)


def test_it_reaches_the_end_over_the_holes_of_compaction(log: LocalLog, put: Callable[..., int]) -> None:
    for value in range(10):
        put(a=value)
    end = put(a=None)
    log.enforce_retention(NOW_MS + TOMBSTONE_MS + REPLACED_MS)
    view = TableView(log, "endpoints", decode)
    assert view.catch_up() == 0
    assert view.reached(end)


def test_the_limit_holds_and_the_next_call_goes_on(log: LocalLog, put: Callable[..., int]) -> None:
    end = put(**{f"k{number}": number for number in range(25)})
    view = TableView(log, "endpoints", decode)
    assert [view.catch_up(limit_records=10) for _ in range(4)] == [10, 10, 5, 0]
    assert view.reached(end)


def test_subscribers_hear_every_change_and_what_was_there_before(
    log: LocalLog, put: Callable[..., int]
) -> None:
    put(a=1, b=2)
    view = TableView(log, "endpoints", decode)
    view.catch_up()
    before = view.version
    heard: list[Change] = []
    view.on_change(lambda key, old, new: heard.append((key, old, new)))
    put(a=5, b=None, c=7)
    view.catch_up()
    assert heard == [("a", None, 1), ("b", None, 2), ("a", 1, 5), ("b", 2, None), ("c", None, 7)]
    assert view.version == before + 3
    view.catch_up()
    assert view.version == before + 3


def test_a_subscriber_may_look_things_up(log: LocalLog, put: Callable[..., int]) -> None:
    view = TableView(log, "endpoints", decode)
    seen: list[tuple[int | None, list[tuple[str, int]]]] = []
    view.on_change(lambda key, _old, _new: seen.append((view.get(key), view.items())))
    put(a=1)
    view.catch_up()
    assert seen == [(1, [("a", 1)])]


def test_a_subscriber_that_raises_loses_no_record(log: LocalLog, put: Callable[..., int]) -> None:
    view = TableView(log, "endpoints", decode)
    failures = [ZeroDivisionError]

    def fail_once(key: str, _old: int | None, _new: int | None) -> None:
        if key == "b" and failures:
            raise failures.pop()

    view.on_change(fail_once)
    end = put(a=1, b=2, c=3)
    with pytest.raises(ZeroDivisionError):
        view.catch_up()
    assert not view.reached(end)
    view.catch_up()
    assert dict(view.items()) == {"a": 1, "b": 2, "c": 3}
    assert view.reached(end)


class TestWhatItCannotRead:
    def test_it_applies_what_stands_before_and_stops(self, log: LocalLog, put: Callable[..., int]) -> None:
        readable = put(a=1, b=2)
        end = put(a=b"of a newer version", c=3)
        view = TableView(log, "endpoints", decode)
        for _ in range(2):  # trying again changes nothing
            with pytest.raises(FormatMismatch, match=r"offset 2, key b'a'"):
                view.catch_up()
            assert dict(view.items()) == {"a": 1, "b": 2}
            assert view.position == readable
            assert not view.reached(end)

    def test_it_goes_on_when_the_key_was_written_again(self, log: LocalLog, put: Callable[..., int]) -> None:
        put(a=1)
        put(a=b"of a newer version")
        view = TableView(log, "endpoints", decode)
        with pytest.raises(FormatMismatch):
            view.catch_up()
        end = put(a=4)
        view.catch_up()
        assert dict(view.items()) == {"a": 4}
        assert view.reached(end)

    def test_it_goes_on_when_the_key_was_deleted(self, log: LocalLog, put: Callable[..., int]) -> None:
        put(a=b"damaged")
        put(a=None)
        view = TableView(log, "endpoints", decode)
        view.catch_up()
        assert view.items() == []

    def test_a_key_that_is_no_text_is_said_too(self, log: LocalLog) -> None:
        log.append_and_wait(TOPIC, [Entry(b"\xff\xfe", b"1")])
        with pytest.raises(FormatMismatch):
            TableView(log, "endpoints", decode).catch_up()


def test_several_threads_may_catch_up_at_once(log: LocalLog, put: Callable[..., int]) -> None:
    view = TableView(log, "endpoints", decode)
    heard: list[str] = []
    view.on_change(lambda key, _old, _new: heard.append(key))
    done = threading.Event()

    def follow() -> None:
        while not done.is_set():
            view.catch_up(limit_records=7)

    threads = [threading.Thread(target=follow) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(100):
        put(**{f"k{number % 10}": number})
    done.set()
    for thread in threads:
        thread.join()
    view.catch_up()
    assert heard == [f"k{number % 10}" for number in range(100)]
    assert dict(view.items()) == {f"k{number}": 90 + number for number in range(10)}


@settings(max_examples=30)  # each opens a log
@given(
    changes=st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 9)), max_size=30),
    limit=st.integers(1, 8),
)
def test_any_history_gives_the_last_value_of_every_key(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int | None]], limit: int
) -> None:
    log = LocalLog.open(
        tmp_path_factory.mktemp("view") / "log", partitions={"endpoints": 1}, clock_ms=lambda: NOW_MS
    )
    early, mirrored, expected = TableView(log, "endpoints", decode), dict[str, int](), dict[str, int]()

    def mirror(key: str, old: int | None, new: int | None) -> None:
        assert mirrored.get(key) == old
        mirrored.pop(key, None) if new is None else mirrored.update({key: new})

    early.on_change(mirror)
    for key, value in changes:
        log.append_and_wait(TOPIC, [Entry(key.encode(), None if value is None else b"%d" % value)])
        expected.pop(key, None) if value is None else expected.update({key: value})
        early.catch_up(limit)
    late = TableView(log, "endpoints", decode)
    for view in (early, late):
        while view.catch_up(limit):
            pass
        assert dict(view.items()) == expected
    assert mirrored == expected
    log.close()
