"""The process dies at every single step of a fixed history, one step per run, and nobody can tell afterwards.

`tests/simulation/test_shard_world.py` draws histories at random; this test draws nothing. Its history has a
little of everything, and every write of the store, every request and every append is a point to die at, so
a batch that is one row short, or a step in the wrong order, has nowhere to hide.
"""

import random
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise

import pytest

from operators.shard.store_port import Family
from schemas import topics
from schemas.attempt import Attempt
from schemas.transition import RowStamp, Transition, TransitionKey
from schemas.wire.records import DEAD_LETTER, DEAD_LETTER_KEY, TRANSITION, TRANSITION_KEY
from tests.simulation.scripted_shard import Death, End, Request, ScriptedShard
from tests.simulation.store_audit import audit

PARTS = 4
"""Every death is tried in parts, so that no test is long."""
STRIDES = {death: 3 if death is Death.POWER_CUT_WITH_A_PART else 1 for death in Death}
"""Every death is tried at every point, but the power cut that leaves a part: it lies between two others."""
PAIRS = 100


@cache
def _points() -> int:
    return ScriptedShard().run().points


def _transitions(run: ScriptedShard) -> list[tuple[TransitionKey, Transition]]:
    """What the delivery log shows: each stamp once."""
    unique: dict[RowStamp, tuple[TransitionKey, Transition]] = {}
    for raw_key, raw in run.topics[topics.TRANSITIONS.name]:
        key = TRANSITION_KEY.decode(raw_key)
        unique.setdefault(key.stamp, (key, TRANSITION.decode(raw)))
    return list(unique.values())


def _check(run: ScriptedShard) -> None:
    _check_ends(run)
    _check_letters(run)
    _check_requests(run)
    _check_order(run)
    _check_leftovers(run)
    if run.is_store_whole:
        _check_attempts(run)
        _check_sequences(run)


def _check_ends(run: ScriptedShard) -> None:
    """Each delivery comes to an end that it may have; to exactly one, unless its store lost something."""
    ends: dict[str, list[End]] = defaultdict(list)
    for key, value in _transitions(run):
        if key.state.is_final:
            ends[key.delivery_id].append((key.state, value.reason))
    assert ends.keys() == run.expected.keys(), (
        f"lost {[run.names[i] for i in run.expected.keys() - ends.keys()]}, "
        f"out of nowhere {[run.names[i] for i in ends.keys() - run.expected.keys()]}"
    )
    for delivery_id, its in ends.items():
        name = run.names[delivery_id]
        assert set(its) <= run.expected[delivery_id], f"{name} ended as {its}"
        assert not run.is_store_whole or len(its) == 1, f"{name} ended several times: {its}"


def _check_letters(run: ScriptedShard) -> None:
    """Every dead letter and every refused record is there, with its body; a repeat has the same name."""
    letters = [
        (DEAD_LETTER_KEY.decode(key), DEAD_LETTER.decode(value))
        for key, value in run.topics[topics.DEAD_LETTERS.name]
    ]
    assert {key.name for key, _ in letters} == run.letters
    assert all(letter.delivery.body for _, letter in letters)
    rejected = {key for key, _ in run.topics[topics.REJECTED.name]}
    unreadable = {record[0] for record in run.log if record[3] in (b"?", None)}
    assert rejected == {f"deliveries/0/{offset}".encode() for offset in unreadable}


def _check_requests(run: ScriptedShard) -> None:
    """A request is repeated only when its end may not have been written."""
    by_delivery: dict[str, list[Request]] = defaultdict(list)
    for request in run.requests:
        by_delivery[request.delivery_id].append(request)
    for delivery_id, requests in by_delivery.items():
        for before, after in pairwise(requests):
            is_repeat = after.number == before.number
            may_repeat = before in run.no_attempts or before.life != after.life
            case = (run.names[delivery_id], requests)
            assert after.number in (before.number, before.number + 1), case
            assert may_repeat or not is_repeat, case
            assert is_repeat or before not in run.succeeded, case


def _check_order(run: ScriptedShard) -> None:
    """First attempts to one endpoint start in the order of `deliveries`."""
    first: dict[str, list[int]] = defaultdict(list)
    known = set()
    for request in run.requests:
        if request.delivery_id not in known:
            known.add(request.delivery_id)
            first[request.endpoint_id].append(request.offset)
    for endpoint_id, offsets in first.items():
        assert offsets == sorted(offsets), f"{endpoint_id}: {offsets}"


def _check_leftovers(run: ScriptedShard) -> None:
    """Nothing is left, in the store or in memory, that would grow with time."""
    audit(run.store)
    run.store.point = None
    run.engine.barrier()
    for family in (Family.PENDING, Family.READY, Family.DUE, Family.OUTBOX):
        assert run.store.seek(family, b"") is None, family
    state = run.engine.state
    assert not state.live
    assert not state.by_id
    assert not state.unsaved
    assert not state.held
    assert (state.live_bytes, state.in_flight_count) == (0, 0)


def _check_attempts(run: ScriptedShard) -> None:
    """Every request whose end was seen is in the log exactly once, and says whether it may be a repeat."""
    attempts: dict[str, list[Attempt]] = defaultdict(list)
    for key, value in _transitions(run):
        if value.attempt is not None:
            assert value.attempt.number == key.attempt_count
            attempts[key.delivery_id].append(value.attempt)
    recorded: Counter[tuple[str, int, int]] = Counter()
    for delivery_id, its in attempts.items():
        assert [attempt.number for attempt in its] == list(range(1, len(its) + 1)), run.names[delivery_id]
        recorded.update((delivery_id, attempt.number, attempt.started_at_ms) for attempt in its)
    for request in run.requests:
        count = recorded.pop((request.delivery_id, request.number, request.at_ms), 0)
        if count == 0:
            is_excused = request in run.flying_at_death or request in run.no_attempts
            assert is_excused, f"{run.names[request.delivery_id]}: not in the log: {request}"
            later = [a for a in attempts[request.delivery_id] if a.number == request.number]
            assert all(a.after_crash for a in later), f"{run.names[request.delivery_id]}: unmarked repeat"
        assert count <= 1, request
    assert not recorded, f"attempts that nobody received: {recorded}"
    marked = [(i, a) for i, its in attempts.items() for a in its if a.after_crash]
    if not run.deaths:
        assert {run.names[delivery_id] for delivery_id, _ in marked} == {"fault-1", "cut-1"}


def _check_sequences(run: ScriptedShard) -> None:
    """The outbox is gapless, and a row that is published again is the same row."""
    assert sorted(run.appended) == list(range(1, run.engine.state.sequence + 1))
    for sequence, rows in run.appended.items():
        assert len({(row.topic, row.key, row.value) for row in rows}) == 1, sequence


def test_the_undisturbed_history_comes_to_its_ends() -> None:
    run = ScriptedShard().run()

    _check(run)
    assert len(run.requests) == len(set(run.requests))


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("death", list(Death))
def test_death_at_any_point_changes_nothing_that_counts(death: Death, part: int) -> None:
    stride = STRIDES[death]
    for point in range(1 + part * stride, _points() + 1, PARTS * stride):
        try:
            _check(ScriptedShard({point: death}).run())
        except AssertionError as error:
            message = f"{death.value} at point {point} of {_points()}: {error}"
            raise AssertionError(message) from error


def test_two_deaths_change_nothing_either() -> None:
    """A second death soon after the first meets the reconciliation and what it left to do."""
    rng = random.Random(2)
    for _ in range(PAIRS):
        first = rng.randint(1, _points() - 1)
        deaths = {first: rng.choice(list(Death)), first + rng.randint(1, 40): rng.choice(list(Death))}
        try:
            _check(ScriptedShard(deaths).run())
        except AssertionError as error:
            message = f"deaths at {deaths}: {error}"
            raise AssertionError(message) from error
