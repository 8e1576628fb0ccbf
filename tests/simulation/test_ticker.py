"""The ticker, by clocks that the test turns: timers by the schedule clock, barriers by the monotonic one."""

from dataclasses import dataclass

from dataflows.engine.items import Tick
from dataflows.engine.ticker import LOOK_S, Ticker

START_MS = 1_790_000_000_000
FAR_MS = START_MS + 10**9


@dataclass
class Shard:
    """A shard with a timer."""

    timer_at_ms: int = FAR_MS


class World:
    """Two shards and a ticker with a barrier each second."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.now_ms = START_MS
        self.may_fire = True
        self.shards = {0: Shard(), 3: Shard()}
        self.ticker = Ticker(
            self.shards,
            lambda: self.now_ms,
            1.0,
            may_fire=lambda: self.may_fire,
            clock=lambda: self.now_s,
        )

    def due(self) -> list[Tick]:
        """Returns what is due, and lets it arrive."""
        ticks = self.ticker.due()
        for tick in ticks:
            self.ticker.arrived(tick.shard)
        return ticks

    def count(self, polls: int, every_s: float = 0.004) -> tuple[int, int]:
        """Polls so often; returns how many looks and how many barriers each shard had."""
        got = []
        for _ in range(polls):
            self.now_s += every_s
            got += self.due()
        barriers = [tick for tick in got if tick.is_barrier]
        assert {tick.shard for tick in got} == set(self.shards)
        return len(got) // len(self.shards), len(barriers) // len(self.shards)


def test_a_shard_is_ticked_when_its_timer_is_due_and_not_before() -> None:
    world = World()
    world.shards[3].timer_at_ms = START_MS + 5
    assert world.due() == []
    world.now_ms += 5
    assert world.due() == [Tick(3)]


def test_every_shard_is_looked_at_twice_a_second_and_has_a_barrier_each_second() -> None:
    assert World().count(polls=2_500) == (20, 10)


def test_barriers_go_on_whatever_the_schedule_clock_does() -> None:
    world = World()
    world.now_ms -= 86_400_000
    assert world.count(polls=2_500) == (20, 10)


def test_a_standstill_is_made_good_with_one_barrier_and_not_with_all_that_were_missed() -> None:
    world = World()
    world.now_s += 3_600
    assert world.due() == [Tick(0, is_barrier=True), Tick(3, is_barrier=True)]
    assert world.due() == []


def test_a_tick_that_has_not_arrived_is_not_followed_by_another() -> None:
    world = World()
    world.shards[0].timer_at_ms = 0
    answered = [world.ticker.is_answered]
    assert world.ticker.due() == [Tick(0)]
    world.now_s += LOOK_S
    answered.append(world.ticker.is_answered)
    assert world.ticker.due() == []
    world.ticker.arrived(0)
    answered.append(world.ticker.is_answered)
    assert answered == [True, False, True]
    assert world.ticker.due() == [Tick(0), Tick(3)]


def test_while_nothing_may_start_timers_wait_and_barriers_do_not() -> None:
    world = World()
    world.may_fire = False
    world.shards[0].timer_at_ms = 0
    assert world.due() == []
    world.now_s += 1.0
    assert world.due() == [Tick(0, is_barrier=True), Tick(3, is_barrier=True)]
