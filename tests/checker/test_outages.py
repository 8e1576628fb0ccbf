"""Outages and excuses: what may be cut, and how late is not too late."""

from hypothesis import given
from hypothesis import strategies as st

from deploy.checker.history import Fault, FaultKind, Run
from deploy.checker.outages import FOR_EVER_NS, Excuse, Outages, is_excused
from tests.checker.model_clockwork import MS
from tests.checker.reference_model import make_history

RUN = next(record for record in make_history(3) if isinstance(record, Run))
MOMENTS = st.integers(0, 60)
INTERVALS = st.lists(st.tuples(MOMENTS, st.integers(0, 15)).map(lambda t: (t[0], t[0] + t[1])), max_size=6)


def _excused_until(since: int, deadline: int, slack: int, intervals: list[tuple[int, int]]) -> int:
    """The plain definition: whatever interval meets the wait moves its deadline, until none does."""
    while True:
        ends = [end for began, end in intervals if began <= deadline and end > since]
        moved = max([deadline, *(end + slack for end in ends)])
        if moved == deadline:
            return deadline
        deadline = moved


@given(MOMENTS, st.integers(0, 30), st.integers(0, 10), st.integers(0, 120), INTERVALS, INTERVALS)
def test_an_excuse_is_the_plain_definition(
    since: int,
    wait: int,
    slack: int,
    happened: int,
    first: list[tuple[int, int]],
    second: list[tuple[int, int]],
) -> None:
    until = _excused_until(since, since + wait, slack, [*first, *second])

    found = is_excused(since, since + wait, slack, happened, Excuse(first), Excuse(second))

    assert found == (happened <= until)


def _kill(at_ms: int, recovered_ms: int | None, repeats_max: int | None = None) -> Fault:
    return Fault(
        kind=FaultKind.KILL,
        began_at_ns=at_ms * MS,
        ended_at_ns=(at_ms + 2) * MS,
        recovered_at_ns=None if recovered_ms is None else recovered_ms * MS,
        repeats_max=repeats_max,
    )


def test_faults_before_the_return_are_one_outage_and_add_up() -> None:
    lost = Fault(
        kind=FaultKind.LOST_DIRECTORY,
        began_at_ns=50 * MS,
        ended_at_ns=60 * MS,
        recovered_at_ns=900 * MS,
        repeats_max=30,
    )
    outages = Outages(RUN, [_kill(10, 900, 5), lost, _kill(5_000, 6_000)])

    assert [(outage.repeats_max, len(outage.faults)) for outage in outages.all] == [(35, 2), (RUN.slots, 1)]


def test_a_request_belongs_to_the_first_outage_that_may_have_cut_it() -> None:
    outages = Outages(RUN, [_kill(1_000, 3_000), _kill(9_000, 12_000)])
    lag_ms = RUN.witness_lag_ms

    assert outages.cutting(0) == 0
    assert outages.cutting((1_002 + lag_ms) * MS) == 0
    assert outages.cutting((1_003 + lag_ms) * MS) == 1
    assert outages.cutting((9_003 + lag_ms) * MS) is None


def test_a_graceful_stop_repeats_none_and_a_lost_directory_only_what_it_says() -> None:
    for kind in (FaultKind.STOP, FaultKind.LOST_DIRECTORY, FaultKind.DAMAGE):
        fault = Fault(kind=kind, began_at_ns=0, ended_at_ns=1, recovered_at_ns=2)

        assert Outages(RUN, [fault]).all[0].repeats_max == 0


def test_a_system_that_never_came_back_excuses_for_ever() -> None:
    outages = Outages(RUN, [_kill(1_000, None)])

    assert is_excused(900 * MS, 1_100 * MS, 0, FOR_EVER_NS, outages.excuse)
    assert not is_excused(0, 999 * MS, 0, FOR_EVER_NS, outages.excuse)
