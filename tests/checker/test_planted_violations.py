"""Every class of violation is found when it is planted into a good history, under its own name."""

from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deploy.checker.check import check
from deploy.checker.history import Record
from deploy.checker.report import Verdict, text
from deploy.checker.violation import ViolationClass
from tests.checker.mutations_of_records import RECORDS
from tests.checker.mutations_of_sending import SENDING
from tests.checker.planting import DoesNotApplyError, Mutation, mutate
from tests.checker.reference_model import make_history

PLANTED_MIN = 20
"""Of each kind, so of each class at least as many."""
SEEDS_MAX = 3_000
MUTATIONS = SENDING | RECORDS
KINDS = [(kind, mutation) for kind, mutations in MUTATIONS.items() for mutation in mutations]


@cache
def good_history(seed: int) -> list[Record]:
    return make_history(seed)


def broken_histories(mutation: Mutation) -> Iterator[tuple[int, list[Record]]]:
    """Yields histories that have a place for the mutation, with the mutation in it."""
    for seed in range(SEEDS_MAX):
        try:
            yield seed, mutate(good_history(seed), mutation, seed)
        except DoesNotApplyError:
            continue


def test_every_class_has_planted_violations() -> None:
    assert set(MUTATIONS) == set(ViolationClass)


@pytest.mark.parametrize(
    ("kind", "mutation"), KINDS, ids=[f"{kind}-{mutation.__name__.strip('_')}" for kind, mutation in KINDS]
)
def test_a_planted_violation_is_found_by_its_name(kind: ViolationClass, mutation: Mutation) -> None:
    found = 0
    for seed, records in broken_histories(mutation):
        report = check(records)

        assert report.verdict is Verdict.VIOLATED, (seed, mutation.__name__, text(report))
        assert report.counts.get(kind), (seed, mutation.__name__, text(report))
        shown = next(violation for violation in report.violations if violation.kind is kind)
        assert shown.slice, shown
        assert report.seed == seed
        found += 1
        if found == PLANTED_MIN:
            break

    print(f"{kind}: {found} of {mutation.__name__} found")  # noqa: T201 - a figure for the log
    assert found == PLANTED_MIN, f"only {found} of {SEEDS_MAX} histories had a place for it"


@settings(max_examples=300)
@given(place=st.integers(0, len(KINDS) - 1), seed=st.integers(0, 2**40), draw=st.integers(0, 2**40))
def test_a_violation_drawn_anywhere_is_found(place: int, seed: int, draw: int) -> None:
    kind, mutation = KINDS[place]
    try:
        records = mutate(make_history(seed), mutation, draw)
    except DoesNotApplyError:
        assume(False)  # noqa: FBT003 - hypothesis' own form
    report = check(records)

    assert report.counts.get(kind), (seed, draw, mutation.__name__, text(report))
