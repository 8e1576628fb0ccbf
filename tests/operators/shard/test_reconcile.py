"""Starts: whatever the store has lost, the shard's own transitions bring back."""

import pytest

from dataflows.connectors.shard_store.memory import MemoryStore
from operators.shard.engine import ShardEngine
from operators.shard.store_port import Family
from schemas import topics
from schemas.delivery import DeliveryState, Lane
from schemas.wire import store_keys
from schemas.wire.store_rows import PENDING_ROW, STAMP_ROW
from tests.operators.shard.desk import Desk, endpoint, limits
from tests.simulation.store_audit import audit


def test_an_empty_directory_sends_nothing_that_has_ended() -> None:
    desk = Desk()
    ended = [desk.deliver(f"evt_{number}") for number in range(4)]
    for sent, status in zip(desk.send(), [200, 404, 200, 200], strict=True):
        desk.answer(sent, status)
    desk.publish()
    desk.engine.barrier()
    desk.kill(MemoryStore())
    assert desk.send() == []
    for delivery in ended:
        assert sum(state.is_final for state in desk.states(delivery)) == 1
    assert desk.engine.reconcile.redone_count == 4


def test_an_empty_directory_goes_on_with_a_retry_where_it_stood() -> None:
    desk = Desk()
    delivery = desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    due_ms = desk.transitions(delivery)[0][0].next_attempt_at_ms
    desk.publish()
    desk.kill(MemoryStore())
    assert desk.send() == []
    audit(desk.store)
    desk.now_ms = due_ms
    sent = desk.one()
    assert (sent.number, sent.live.schedule_step, sent.live.lane) == (2, 1, Lane.RETRY)
    desk.answer(sent)
    assert desk.states(delivery) == [DeliveryState.RETRYING, DeliveryState.DELIVERED]


@pytest.mark.parametrize("then", [200, 404, 500])
def test_an_old_copy_is_brought_up_to_date(then: int) -> None:
    """The copy holds the delivery as `ready` (or as an earlier retry); what came after is redone on it."""
    for has_failed_before in (False, True):
        desk = Desk()
        delivery = desk.deliver("evt_1")
        if has_failed_before:
            desk.answer(desk.one(), 500)
            desk.publish()
        desk.take()
        desk.engine.barrier()
        copy = desk.store.copy()
        desk.later(1_250)
        desk.answer(desk.one(), then)
        desk.publish()
        states = desk.states(delivery)

        desk.kill(copy)
        audit(desk.store)
        assert desk.send() == []
        assert desk.states(delivery) == states
        if then == 500:
            desk.later(10_000)
            sent = desk.one()
            assert sent.number == 2 + has_failed_before
        else:
            assert desk.rows(Family.PENDING) == []


def test_redo_twice_is_redo_once() -> None:
    desk = Desk()
    desk.deliver("evt_1")
    desk.answer(desk.one(), 500)
    desk.publish()
    keys = [key for key, _ in desk.transitions()]
    desk.kill(MemoryStore())
    desk.take()
    before = [desk.rows(family) for family in Family]
    desk.engine.reconcile.redo(keys)
    assert [desk.rows(family) for family in Family] == before


def test_outbox_rows_that_stand_in_their_topic_are_not_published_again() -> None:
    desk = Desk()
    for number in range(3):
        desk.deliver(f"evt_{number}")
    desk.settle_everything(404)
    rows = desk.engine.take_publishes()
    for row in rows[:3]:  # appended; the process dies before it hears of it
        desk.records[row.topic].append((row.key, row.value))
    desk.kill()
    assert [row.sequence for row in desk.engine.unpublished(0, 100)] == [4, 5, 6]
    desk.publish(desk.engine.unpublished(0, 100))
    assert desk.engine.published_sequence == 6


def test_an_end_whose_dead_letter_was_lost_by_a_power_cut_ends_again_with_it() -> None:
    """The transition got into its topic, the dead letter did not, and the power cut took the outbox row."""
    for is_stored in (False, True):
        desk = Desk()
        delivery = desk.deliver("evt_1")
        sent = desk.one()
        if is_stored:
            desk.engine.barrier()
        desk.store.sync()
        desk.answer(sent, 404)
        desk.publish([row for row in desk.engine.take_publishes() if row.topic == topics.TRANSITIONS.name])
        desk.kill(desk.store.after_power_cut())
        desk.settle_everything(404)
        assert [key.name for key, _ in desk.dead_letters()] == [delivery.id]
        assert desk.states(delivery) == [DeliveryState.DEAD_LETTERED] * 2


def test_a_start_finds_ready_work_with_one_seek_per_endpoint() -> None:
    names = [f"ep_{number}" for number in range(20)]
    desk = Desk(*map(endpoint, names), policy=limits(live_max=0))
    for number in range(50):
        for name in names:
            desk.deliver(f"evt_{number}", name)
    desk.take()
    desk.engine.barrier()
    desk.kill()
    assert len(desk.engine.state.active) == 20
    assert not desk.engine.state.live
    assert len(desk.settle_everything()) == 1_000


def test_the_log_is_taken_from_where_the_store_stands() -> None:
    desk = Desk()
    for number in range(5):
        desk.deliver(f"evt_{number}")
    desk.take()
    desk.engine.barrier()
    desk.deliver("evt_5")
    desk.take()
    desk.kill()
    assert desk.engine.state.next_offset == 5


def test_a_person_may_set_the_offset_back_and_only_what_is_missing_is_sent() -> None:
    desk = Desk()
    for number in range(4):
        desk.deliver(f"evt_{number}")
    desk.answer(desk.send(2))
    desk.publish()
    desk.engine.barrier()
    desk.kill()
    desk.engine.state.next_offset = 0
    assert sorted(sent.live.offset for sent in desk.settle_everything()) == [2, 3]


def test_pauses_and_gone_endpoints_are_loaded() -> None:
    desk = Desk(endpoint("ep_a"), endpoint("ep_b"))
    desk.deliver("evt_1", "ep_a")
    desk.deliver("evt_1", "ep_b")
    for sent in desk.send():
        if sent.endpoint.id == "ep_a":
            desk.answer(sent, 429, headers=(("retry-after", "30"),))
        else:
            desk.answer(sent, 410)
    desk.kill()
    rows = desk.engine.state.endpoint_rows
    assert rows["ep_a"].paused_until_ms == desk.now_ms + 30_000
    assert rows["ep_b"].disabled_generation == 1
    assert desk.engine.state.pauses == [(desk.now_ms + 30_000, "ep_a")]


def test_a_block_that_touches_one_delivery_several_times_is_applied_as_a_whole() -> None:
    """Redo writes once per block: the rows it deletes and the ones it puts must still be the right ones."""
    desk = Desk()
    delivery, other = desk.deliver("evt_1"), desk.deliver("evt_2")
    desk.take()
    desk.engine.barrier()
    copy = desk.store.copy()
    for sent, status in zip(desk.send(), [500, 200], strict=True):
        desk.answer(sent, status)
    desk.later(1_250)
    desk.answer(desk.one(), 500)
    desk.publish()
    keys = [key for key, _ in desk.transitions()]
    assert [key.delivery_id for key in keys] == [delivery.id, other.id, delivery.id]

    for blocks in ([keys], [keys[:1], keys[1:]], [keys[:2], keys[2:]], [[key] for key in keys]):
        store = copy.copy()
        engine = ShardEngine(0, desk.epoch + 1, store, desk.view, desk.policy)
        engine.reconcile.note(topics.DEAD_LETTERS.name, [])
        for block in blocks:
            engine.reconcile.redo(block)
        audit(store)
        (due,) = [key for key, _ in store.scan_all(Family.DUE)]
        assert store_keys.parse_due_key(due)[0] == keys[2].next_attempt_at_ms
        (row,) = [PENDING_ROW.decode(raw) for _, raw in store.scan_all(Family.PENDING)]
        assert (row.delivery.id, row.attempt_count, row.lane) == (delivery.id, 2, Lane.RETRY)
        assert not list(store.scan_all(Family.READY))
        assert STAMP_ROW.decode(store.get(Family.META, store_keys.META_STAMP) or b"") == keys[2].stamp
        assert engine.reconcile.redone_count == 3


def test_redo_writes_one_batch_per_block() -> None:
    desk = Desk()
    for number in range(50):
        desk.deliver(f"evt_{number}")
    desk.settle_everything()
    desk.publish()
    keys = [key for key, _ in desk.transitions()]
    store = MemoryStore()
    ShardEngine(0, 9, store, desk.view, desk.policy).reconcile.redo(keys)
    assert store.unsynced_batch_count == 1


def test_rows_that_were_published_twice_are_redone_once_and_never_set_the_stamp_back() -> None:
    desk = Desk()
    for number in range(4):
        desk.deliver(f"evt_{number}")
    desk.settle_everything()
    desk.publish()
    keys = [key for key, _ in desk.transitions()]
    twice = [*keys, *keys[:2]]  # it died while it published them again
    for blocks in ([twice], [twice[:4], twice[4:]], [twice[:5], twice[5:]]):
        store = MemoryStore()
        reconcile = ShardEngine(0, 9, store, desk.view, desk.policy).reconcile
        for block in blocks:
            reconcile.redo(block)
        assert reconcile.redone_count == 4
        assert STAMP_ROW.decode(store.get(Family.META, store_keys.META_STAMP) or b"") == keys[3].stamp


def test_that_an_endpoint_was_disabled_is_forgotten_when_it_is_enabled_again() -> None:
    desk = Desk(endpoint("ep_a"), endpoint("ep_b"))
    for name in ("ep_a", "ep_b"):
        desk.deliver("evt_1", name)
    desk.answer(desk.send(), 410)
    assert desk.engine.state.endpoint_rows.keys() == {"ep_a", "ep_b"}

    desk.view.by_id["ep_a"] = endpoint("ep_a", generation=2)
    desk.engine.wake("ep_a")
    desk.engine.wake("ep_b")
    assert desk.engine.state.endpoint_rows.keys() == {"ep_b"}
    desk.view.by_id["ep_b"] = endpoint("ep_b", generation=2)  # while nothing ran
    desk.publish()
    desk.kill()
    assert not desk.engine.state.endpoint_rows
    assert desk.rows(Family.ENDPOINTS) == []
    desk.kill(MemoryStore())  # the reports in the topic are those of before
    assert not desk.engine.state.endpoint_rows
