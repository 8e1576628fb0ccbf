"""Who is suspected, who is acquitted, who is parked: judged over histories of deaths, without any file."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from operators.suspicion import PARK_DEATHS, PARKED_MAX, Parking, Phase, Suspicion, run_length

PHASES = st.sampled_from(Phase)
KEYS = st.sets(st.integers(0, 9), min_size=1)


def nobody() -> Suspicion:
    return Suspicion({}, {})


@pytest.mark.parametrize(
    ("groups", "length"),
    [
        ([0], 1),
        ([0, 0, 0], 3),
        ([0, 0, 1, 0], 2),
        ([1, 1, 0], 1),
        ([64, 64, 64, 0], 3),
        ([2, 2, 2], 2),
        ([64, 64, 1, 64], 2),
        ([1, 64], 1),
    ],
)
def test_suspects_are_taken_in_their_groups_and_the_others_up_to_them(groups: list[int], length: int) -> None:
    assert run_length(groups) == length


@given(st.lists(st.sampled_from([0, 0, 0, 1, 2, 64]), min_size=1, max_size=200))
def test_no_run_mixes_suspects_with_others_or_is_larger_than_any_of_its_suspects_allows(
    groups: list[int],
) -> None:
    left = groups
    while left:
        count = run_length(left)
        run, left = left[:count], left[count:]
        assert count >= 1
        assert not any(run) or all(group >= count for group in run)


def test_three_deaths_in_ever_smaller_tries_park_the_record_that_was_in_all_of_them() -> None:
    suspicion = nobody()
    assert suspicion.died(Phase.ACCEPT, set(range(500))) is None
    assert set(suspicion.groups(64).values()) == {64}
    assert suspicion.died(Phase.ACCEPT, set(range(320, 384))) is None
    assert suspicion.groups(64) == dict.fromkeys(range(320, 384), 1)
    assert suspicion.died(Phase.ACCEPT, {333}) == 333
    assert suspicion.parked == {333: Parking(Phase.ACCEPT, 3)}
    assert suspicion.groups(64) == {333: 1}


def test_a_third_death_in_a_try_of_several_parks_nobody() -> None:
    suspicion = nobody()
    for _ in range(10):
        assert suspicion.died(Phase.SETTLE, {1, 2}) is None
    assert suspicion.groups(64) == {1: 1, 2: 1}


def test_deaths_of_one_record_in_different_phases_add_up() -> None:
    suspicion = nobody()
    assert suspicion.died(Phase.SAVE, {6, 7}) is None
    assert suspicion.died(Phase.ACCEPT, {7}) is None
    assert suspicion.died(Phase.SAVE, {7}) == 7
    assert suspicion.groups(1) == {7: 1}
    assert not suspicion.suspects, "the last try took the place of the first"


def test_passing_a_phase_acquits_in_that_phase_only() -> None:
    suspicion = nobody()
    suspicion.died(Phase.SEND, {7})
    suspicion.died(Phase.SEND, {7})
    assert not suspicion.passed(Phase.ACCEPT, {7})
    assert suspicion.groups(1) == {7: 1}
    assert suspicion.passed(Phase.SEND, {7, 8})
    assert suspicion.groups(1) == {}
    assert suspicion.died(Phase.SEND, {7}) is None


def test_a_parking_that_kills_is_counted_and_changes_what_may_be_kept() -> None:
    suspicion = nobody()
    for _ in range(PARK_DEATHS):
        suspicion.died(Phase.DECODE, {7})
    parking = suspicion.parked[7]
    assert (parking.is_deadly_to_read, parking.is_deadly_to_keep) == (True, False)
    assert suspicion.died(Phase.ACCEPT, {7}) == 7
    parking = suspicion.parked[7]
    assert (parking.is_deadly_to_read, parking.is_deadly_to_keep) == (True, True)
    assert "4 times" in parking.detail


def test_the_memory_of_parked_records_is_bounded() -> None:
    suspicion = nobody()
    for key in range(PARKED_MAX + 10):
        for _ in range(PARK_DEATHS):
            suspicion.died(Phase.SEND, {key})
    assert list(suspicion.parked) == list(range(10, PARKED_MAX + 10))


class Judged(RuleBasedStateMachine):
    """Any deaths and any passings; beside them, the plain history of each record."""

    def __init__(self) -> None:
        super().__init__()
        self.suspicion = nobody()
        self.deaths: dict[tuple[Phase, int], int] = {}
        self.last: dict[Phase, set[int]] = {}
        self.chain: dict[Phase, int] = {}
        """How many deaths in a row led to the phase's suspects, each with a record of the one before."""

    @rule(phase=PHASES, keys=KEYS)
    def die(self, phase: Phase, keys: set[int]) -> None:
        parked_before = set(self.suspicion.parked)
        parked = self.suspicion.died(phase, keys)
        if keys <= parked_before and len(keys) == 1:
            return
        explained = [other for other, last in self.last.items() if last & keys]
        chain = 1 + max([self.chain[other] for other in explained], default=0)
        for other in explained:
            del self.last[other]
        if parked is not None:
            assert keys == {parked}, "only who was alone is parked"
            assert chain >= PARK_DEATHS, "and only at the end of three deaths in a row"
        else:
            assert len(keys) > 1 or chain < PARK_DEATHS, "who was alone at the third is parked"
            self.last[phase], self.chain[phase] = set(keys), chain

    @rule(phase=PHASES, keys=KEYS)
    def go_on(self, phase: Phase, keys: set[int]) -> None:
        self.suspicion.passed(phase, keys)
        if phase in self.last:
            self.last[phase] -= keys
            if not self.last[phase]:
                del self.last[phase]

    @invariant()
    def suspects_are_the_last_try_less_those_that_passed(self) -> None:
        assert {phase: known.keys for phase, known in self.suspicion.suspects.items()} == self.last


TestJudged = Judged.TestCase


def live_through(suspicion: Suspicion, is_deadly: Callable[[int], bool], kill_after: int | None) -> bool:
    """One process over 300 records in blocks of 100; returns whether it came to the end.

    `kill_after` kills it while the try of that number is under way.
    """
    groups = suspicion.groups(16)
    position, tries = 0, 0
    while position < 300:
        block = list(range(position, min(position - position % 100 + 100, 300)))
        run = block[: run_length([groups.get(key, 0) for key in block])]
        if run[0] not in suspicion.parked:
            if any(map(is_deadly, run)) or tries == kill_after:
                suspicion.died(Phase.ACCEPT, set(run))
                return False
            suspicion.passed(Phase.ACCEPT, run)
        tries += 1
        position += len(run)
    return True


@given(st.sets(st.integers(0, 299), min_size=1, max_size=4))
def test_every_deadly_record_costs_at_most_three_deaths_and_no_other_is_parked(deadly: set[int]) -> None:
    suspicion = nobody()
    deaths = 0
    while not live_through(suspicion, deadly.__contains__, None):
        deaths += 1
        assert deaths <= PARK_DEATHS * len(deadly)
    assert set(suspicion.parked) == deadly
    if len(deadly) == 1:
        assert deaths == PARK_DEATHS


def test_kills_at_random_tries_park_nobody() -> None:
    rng = random.Random(20_261_123)
    suspicion = nobody()
    for _ in range(20_000):
        # Evenly over what a life of a second would do; most of it is not the first try after the start.
        live_through(suspicion, lambda _: False, rng.randrange(2_000))
    assert not suspicion.parked
