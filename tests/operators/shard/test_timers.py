"""Timers: a scan of `due` from a cursor and a heap for the near future; leftovers are discarded."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from operators.shard.store_port import Family
from schemas.endpoint import RetryPolicy
from schemas.wire import store_keys
from tests.operators.shard.desk import START_MS, Desk, endpoint, limits


def _waiting(desk: Desk, count: int) -> list[int]:
    """Makes deliveries wait; returns when each is due."""
    for number in range(count):
        desk.deliver(f"evt_{number}")
    desk.settle_everything(500)
    return [key.next_attempt_at_ms for key, _ in desk.transitions()]


def test_a_due_key_without_its_pending_row_is_discarded() -> None:
    desk = Desk()
    batch = desk.store.batch()
    batch.put(Family.DUE, store_keys.due_key(START_MS + 1, "ep_a", 1, 7), b"")
    desk.store.write(batch)
    desk.kill()
    desk.later(1)
    assert desk.send() == []
    assert desk.rows(Family.DUE) == desk.rows(Family.READY) == []


def test_a_due_key_of_another_time_is_discarded() -> None:
    desk = Desk()
    (due_ms,) = _waiting(desk, 1)
    batch = desk.store.batch()
    batch.put(Family.DUE, store_keys.due_key(START_MS + 1, "ep_a", 1, 0), b"")
    desk.store.write(batch)
    desk.kill()
    desk.later(1)
    assert desk.send() == []
    desk.now_ms = due_ms
    assert len(desk.send()) == 1


def test_leftovers_do_not_stand_in_the_way_of_what_is_due() -> None:
    desk = Desk(policy=replace(limits(), due_block_max=2))
    (due_ms,) = _waiting(desk, 1)
    batch = desk.store.batch()
    for offset in range(100, 110):
        batch.put(Family.DUE, store_keys.due_key(START_MS + offset, "ep_a", 1, offset), b"")
    desk.store.write(batch)
    desk.kill()
    desk.now_ms = due_ms
    rounds = 0
    while not desk.send():
        rounds += 1
        assert rounds < 10
    assert desk.rows(Family.DUE) == []


@given(
    delays_ms=st.lists(st.integers(1, 30_000), min_size=1, max_size=12),
    horizon_ms=st.sampled_from([1, 10, 5_000]),
    block=st.integers(1, 4),
    steps_ms=st.lists(st.integers(1, 4_000), min_size=1, max_size=30),
    kills=st.sets(st.integers(0, 29)),
)
def test_every_timer_fires_once_and_at_its_time(
    delays_ms: list[int], horizon_ms: int, block: int, steps_ms: list[int], kills: set[int]
) -> None:
    names = [f"ep_{number}" for number in range(len(delays_ms))]
    desk = Desk(
        *(
            endpoint(name, retry=RetryPolicy(delays_ms=(delay,), window_ms=200_000))
            for name, delay in zip(names, delays_ms, strict=True)
        ),
        policy=replace(limits(), due_horizon_ms=horizon_ms, due_block_max=block),
    )
    for name in names:
        desk.deliver("evt_1", name)
    desk.answer(desk.send(), 500)
    due_ms = {key.delivery_id: key.next_attempt_at_ms for key, _ in desk.transitions()}
    for step, ms in enumerate([*steps_ms, 40_000]):
        if step in kills:
            desk.kill()
        desk.later(ms)
        sent = desk.send()
        desk.answer(sent)
        fired = {dispatch.live.delivery.id for dispatch in sent}
        expected = {name for name, at_ms in due_ms.items() if at_ms <= desk.now_ms}
        assert fired == expected
        for name in fired:
            del due_ms[name]
    assert not due_ms


def test_the_next_timer_is_never_later_than_what_is_due() -> None:
    desk = Desk()
    due_ms = sorted(_waiting(desk, 30))
    while due_ms:
        at_ms = desk.engine.next_timer_at_ms()
        assert at_ms <= due_ms[0]
        desk.now_ms = max(desk.now_ms, at_ms)
        desk.settle_everything()
        due_ms = [at for at in due_ms if at > desk.now_ms]
