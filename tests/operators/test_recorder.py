"""The exactly-once filter against a model table, through crashes, partial inserts and repeated publishing."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.recorder import Row, RowFilter
from schemas.transition import RowStamp


@dataclass
class Table:
    """What the delivery log has: every inserted stamp, as often as it was inserted."""

    stamps: list[RowStamp] = field(default_factory=list)

    def highest(self, floor: RowStamp) -> RowStamp | None:
        return max((stamp for stamp in self.stamps if stamp >= floor), default=None)

    def present(self, suspects: list[RowStamp]) -> set[RowStamp]:
        return set(suspects) & set(self.stamps)


def new_rows(row_filter: RowFilter, table: Table, stamps: list[RowStamp]) -> list[Row]:
    """What the caller does with a block of partition 0."""
    if not row_filter.knows(0):
        row_filter.begin(0, table.highest(min(stamps)))
    present = table.present(row_filter.suspects(0, stamps))
    return list(row_filter.admit(0, stamps, [(stamp,) for stamp in stamps], present))


@st.composite
def published_topics(draw: st.DrawFn) -> list[RowStamp]:
    """A topic's stamps: epochs of rising sequences (not dense), any part published again at a later point.

    Every now and then a former owner's row lands late, after its successor's first ones.
    """
    topic: list[RowStamp] = []
    epoch, sequence = 0, 0
    for _ in range(draw(st.integers(1, 4))):
        epoch += draw(st.integers(1, 5))
        sequence = draw(st.sampled_from([0, sequence]))  # an empty store counts from zero again
        for _ in range(draw(st.integers(0, 6))):
            sequence += draw(st.integers(1, 3))
            topic.append(RowStamp(epoch, sequence))
        if topic:
            since = draw(st.integers(0, len(topic)))
            topic += topic[since:][: draw(st.integers(0, 8))]
    for at in draw(st.lists(st.integers(0, max(0, len(topic) - 1)), max_size=2)):
        if topic:
            topic.append(topic.pop(at))
    return topic


@given(topic=published_topics(), chance=st.data())
def test_every_row_is_inserted_once_whatever_dies_in_between(
    topic: list[RowStamp], chance: st.DataObject
) -> None:
    table = Table()
    committed = 0
    while committed < len(topic):
        row_filter, position = RowFilter(), committed  # a start of the process
        is_alive = True
        while is_alive and position < len(topic):
            end = position + chance.draw(st.integers(1, 5), label="block")
            rows = new_rows(row_filter, table, topic[position:end])
            fate = chance.draw(st.sampled_from(["fine", "fine", "fine", "retry", "die"]), label="fate")
            if fate != "fine":  # the insert failed: any part of it may have been done
                kept = chance.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
                table.stamps += [row[0] for row, was_kept in zip(rows, kept, strict=True) if was_kept]
                is_alive = fate == "retry"  # either the same process tries again, or the next one does
                continue
            table.stamps += [row[0] for row in rows]
            position = end
            fate = chance.draw(st.sampled_from(["commit", "commit", "later", "die"]), label="commit")
            is_alive = fate != "die"
            if fate == "commit":
                committed = position
        if position >= len(topic):
            break
    assert sorted(table.stamps) == sorted(set(topic))


def test_a_rising_block_above_the_high_water_asks_nothing_and_is_taken_whole() -> None:
    row_filter = RowFilter()
    row_filter.begin(3, RowStamp(1, 9))
    stamps = [RowStamp(1, 10), RowStamp(1, 12), RowStamp(2, 0)]
    rows = [("a",), ("b",), ("c",)]
    assert row_filter.suspects(3, stamps) == []
    assert row_filter.admit(3, stamps, rows, ()) is rows
    assert row_filter.suspects(3, [RowStamp(2, 0)]) == [RowStamp(2, 0)]


def test_a_row_below_the_high_water_that_the_table_lacks_is_not_lost() -> None:
    table, row_filter = Table(), RowFilter()
    row_filter.begin(0, None)
    table.stamps += [row[0] for row in new_rows(row_filter, table, [RowStamp(7, 1), RowStamp(7, 2)])]
    # The former owner's last row, acknowledged late.
    assert new_rows(row_filter, table, [RowStamp(3, 50), RowStamp(7, 2), RowStamp(7, 3)]) == [
        (RowStamp(3, 50),),
        (RowStamp(7, 3),),
    ]


def test_a_stamp_that_stands_twice_in_one_block_is_taken_once() -> None:
    row_filter = RowFilter()
    row_filter.begin(0, None)
    stamps = [RowStamp(1, 1), RowStamp(1, 2), RowStamp(1, 1), RowStamp(1, 3)]
    assert row_filter.admit(0, stamps, [(1,), (2,), (1,), (3,)], ()) == [(1,), (2,), (3,)]


def test_partitions_do_not_touch_each_other_and_a_forgotten_one_begins_anew() -> None:
    row_filter = RowFilter()
    row_filter.begin(0, RowStamp(9, 9))
    row_filter.begin(1, None)
    assert row_filter.suspects(1, [RowStamp(1, 1)]) == []
    row_filter.forget(0)
    row_filter.forget(5)
    assert not row_filter.knows(0)
    with pytest.raises(KeyError):
        row_filter.suspects(0, [RowStamp(1, 1)])
