"""The shard engine under every way a process and its store can end, seed by seed."""

from collections.abc import Callable

import pytest

from dataflows.connectors.shard_store.memory import MemoryStore
from tests.simulation.shard_world import World

SEEDS = range(12)
STEPS = 500


def _clean_stop(world: World, _old: MemoryStore) -> None:
    world.stop_cleanly()


def _kill(world: World, _old: MemoryStore) -> None:
    world.kill()


def _power_cut(world: World, _old: MemoryStore) -> None:
    world.kill(damaged=world.store.after_power_cut())


def _old_copy(world: World, old: MemoryStore) -> None:
    world.kill(damaged=old.copy())


def _empty_directory(world: World, _old: MemoryStore) -> None:
    world.kill(damaged=MemoryStore(shard=0, shard_count=1))


FAULTS = [_clean_stop, _kill, _power_cut, _old_copy, _empty_directory]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_and_only_what_was_in_flight_repeats(
    fault: Callable[[World, MemoryStore], None], seed: int
) -> None:
    world = World(seed)
    old = world.store.copy()
    for _ in range(STEPS):
        if world.rng.random() < 0.3:
            world.publish_event()
        if world.rng.random() < 0.02 and world.deliveries:
            world.republish_some()
        if world.rng.random() < 0.03 and world.deliveries:
            world.command_some()
        if world.rng.random() < 0.01:
            old = world.store.copy()
        world.step()
        if world.rng.random() < 0.015:
            fault(world, old)
    world.run_dry()

    world.check(is_store_whole=fault in (_clean_stop, _kill))
    if fault is _clean_stop:
        assert not world.crash_repeats


def test_without_faults_every_delivery_is_sent_exactly_as_often_as_recorded() -> None:
    world = World(seed=1)
    for _ in range(STEPS):
        if world.rng.random() < 0.5:
            world.publish_event()
        world.step()
    world.run_dry()

    world.check(is_store_whole=True)
    recorded = sum(value.attempt is not None for _, value in world.transitions())
    assert recorded == sum(map(len, world.sent.values()))
    assert not world.engine.state.queues
    assert not world.engine.state.live
    assert world.engine.state.live_bytes == 0
    assert world.engine.state.in_flight_count == 0
