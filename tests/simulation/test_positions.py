"""Positions: the finished prefix against a plain model, whatever the order of acknowledgements."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.connectors.log.port import Entry, GroupOffset, OffsetOutOfRange, TopicPartition
from dataflows.engine.positions import ContiguousAcks, go_on_at_start, start_positions
from schemas.errors import Refused
from tests.simulation.memory_log import MemoryLog

P0, P1 = TopicPartition("events", 0), TopicPartition("events", 1)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[TopicPartition, int, int | None]]:
    """Begins (partition, first, end) and acknowledgements (partition, first, None), in any legal order."""
    history: list[tuple[TopicPartition, int, int | None]] = []
    next_offset = {P0: 0, P1: 0}
    unacknowledged: list[tuple[TopicPartition, int]] = []
    for _ in range(draw(st.integers(0, 40))):
        place = draw(st.integers(-1, len(unacknowledged) - 1)) if unacknowledged else -1
        if place >= 0:
            of, first = unacknowledged.pop(place)
            history.append((of, first, None))
        else:
            of = draw(st.sampled_from([P0, P1]))
            first = next_offset[of] + draw(st.integers(0, 2))
            next_offset[of] = first + draw(st.integers(1, 3))
            unacknowledged.append((of, first))
            history.append((of, first, next_offset[of]))
    return history


@given(histories())
def test_the_committable_offset_is_the_end_of_the_finished_prefix(
    history: list[tuple[TopicPartition, int, int | None]],
) -> None:
    acks = ContiguousAcks()
    begun: dict[TopicPartition, list[tuple[int, int]]] = {P0: [], P1: []}
    done: set[tuple[TopicPartition, int]] = set()
    taken: dict[TopicPartition, int] = {}
    for of, first, end in history:
        if end is not None:
            acks.begin(of, first, end)
            begun[of].append((first, end))
        else:
            acks.acknowledge(of, first)
            done.add((of, first))
        for partition, ranges in begun.items():
            expected = None
            for start, stop in ranges:
                if (partition, start) not in done:
                    break
                expected = stop
            assert acks.committable(partition) == expected
        for partition, offset in acks.take_advanced().items():
            assert offset > taken.get(partition, -1), "an offset that did not rise was handed out"
            taken[partition] = offset
        assert {partition: acks.committable(partition) for partition in taken} == taken
    assert acks.open_count == sum(map(len, begun.values())) - len(done)


def test_what_was_never_begun_cannot_be_acknowledged() -> None:
    acks = ContiguousAcks()
    acks.begin(P0, 5, 8)
    with pytest.raises(KeyError):
        acks.acknowledge(P0, 6)
    acks.acknowledge(P0, 5)
    with pytest.raises(KeyError):
        acks.acknowledge(P0, 5)
    assert acks.committable(P0) == 8
    with pytest.raises(AssertionError):
        acks.begin(P0, 7, 9)


def test_acknowledgements_may_come_from_several_threads() -> None:
    acks = ContiguousAcks()
    count = 2_000
    for first in range(count):
        acks.begin(P0, first, first + 1)

    def acknowledge(some: range) -> None:
        for first in some:
            acks.acknowledge(P0, first)

    threads = [threading.Thread(target=acknowledge, args=(range(start, count, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (acks.committable(P0), acks.open_count) == (count, 0)


def test_a_group_starts_at_its_offset_else_at_the_logs_start_and_never_beyond_the_end() -> None:
    log = MemoryLog({"events": 2})
    for of in (P0, P1):
        log.append_and_wait(of, [Entry(None, b"")] * 5)
    log.forget_below(P1, 3)
    log.commit("group", {P0: GroupOffset(5, "")})
    assert start_positions(log, "group", [P0, P1]) == {P0: 5, P1: 3}
    log.commit("group", {P0: GroupOffset(6, "")})
    with pytest.raises(Refused, match=r"events\[0\]: offset 6"):
        start_positions(log, "group", [P0])


def test_below_the_start_it_goes_on_there_and_above_the_end_it_refuses() -> None:
    assert go_on_at_start(OffsetOutOfRange(P0, 2, 5, 9), "group") == 5
    with pytest.raises(Refused):
        go_on_at_start(OffsetOutOfRange(P0, 10, 5, 9), "group")
