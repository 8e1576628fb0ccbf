"""The barrier: what memory alone holds, and where it stands, in one batch; nothing when nothing changed."""

from operators.shard.store_port import Family
from schemas import topics
from schemas.wire import store_keys
from schemas.wire.store_rows import POSITION_ROW, PositionRow
from tests.operators.shard.desk import START_MS, Desk, limits


def _position(desk: Desk) -> PositionRow:
    raw = desk.store.get(Family.META, store_keys.META_POSITION)
    assert raw is not None
    return POSITION_ROW.decode(raw)


def test_a_barrier_without_change_writes_nothing() -> None:
    desk = Desk()
    desk.deliver("evt_1")
    desk.take()
    assert desk.engine.barrier() is not None
    before = desk.store.unsynced_batch_count
    assert desk.engine.barrier() is None
    desk.one()
    assert desk.engine.barrier() is None  # being sent changes nothing that is stored
    assert desk.store.unsynced_batch_count == before


def test_each_change_makes_one_barrier() -> None:
    desk = Desk()
    marks = []
    for change in (
        lambda: desk.deliver("evt_1"),
        lambda: desk.take(),  # noqa: PLW0108 - as the others
        lambda: desk.settle_everything(),  # noqa: PLW0108 - as the others
        lambda: desk.publish(),  # noqa: PLW0108 - as the others
    ):
        change()
        marks.append(desk.engine.barrier())
        assert desk.engine.barrier() is None
    assert [mark is not None for mark in marks] == [False, True, False, True]
    numbers = [mark.barrier for mark in marks if mark is not None]
    assert numbers == [2, 3]  # the start wrote the first
    assert [mark.deliveries_offset for mark in marks if mark is not None] == [1, 1]


def test_a_barrier_saves_what_is_queued_and_what_is_in_flight_with_its_position() -> None:
    desk = Desk()
    desk.deliver("evt_1")
    desk.one()
    desk.deliver("evt_2")
    desk.take()
    assert desk.rows(Family.PENDING) == []
    desk.engine.barrier()
    assert len(desk.rows(Family.PENDING)) == len(desk.rows(Family.READY)) == 2
    position = _position(desk)
    assert (position.deliveries_offset, position.highest_recorded_at_ms) == (2, START_MS)
    desk.kill()
    assert desk.engine.state.next_offset == 2
    assert len(desk.send()) == 2


def test_what_succeeds_before_the_barrier_is_never_written_to_pending() -> None:
    desk = Desk()
    for number in range(50):
        desk.deliver(f"evt_{number}")
    before = desk.store.unsynced_batch_count
    desk.answer(desk.send())
    assert desk.store.unsynced_batch_count == before + 1  # 50 deliveries, one batch
    assert desk.engine.barrier() is not None
    assert desk.rows(Family.PENDING) == []


def test_too_much_unsaved_work_is_written_before_the_barrier() -> None:
    desk = Desk(policy=limits(unsaved_max=10))
    for number in range(25):
        desk.deliver(f"evt_{number}")
        desk.take()
        assert len(desk.engine.state.unsaved) <= 10
    assert len(desk.rows(Family.PENDING)) >= 11
    desk.kill()
    assert len(desk.settle_everything()) == 25


def test_positions_are_those_of_the_acknowledged_prefix() -> None:
    desk = Desk()
    desk.deliver("evt_1")
    desk.settle_everything(404)
    letter_first = sorted(desk.engine.take_publishes(), key=lambda row: row.topic)
    assert letter_first[0].topic == topics.DEAD_LETTERS.name
    desk.publish(letter_first[:1])
    desk.engine.barrier()
    position = _position(desk)
    assert (position.dead_letters_position, position.transitions_position) == (0, 0)
    desk.publish(letter_first[1:])
    desk.engine.barrier()
    position = _position(desk)
    assert (position.dead_letters_position, position.transitions_position) == (1, 1)
    assert position.published_sequence == 2


def test_clean_is_said_by_a_graceful_stop_only_and_taken_back_by_the_next_start() -> None:
    desk = Desk()
    desk.engine.barrier()
    assert not _position(desk).is_clean
    assert desk.engine.barrier(is_clean=True) is not None
    assert _position(desk).is_clean
    desk.boot()
    assert not _position(desk).is_clean
    assert _position(desk).owner_epoch == 2
