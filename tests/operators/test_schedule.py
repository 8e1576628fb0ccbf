"""The retry schedule in numbers, and what no policy and no receiver can bend."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.schedule import (
    JITTER_MAX,
    delay_ms,
    jittered_ms,
    next_attempt_at_ms,
    preview,
    window_ends_at_ms,
)
from schemas.endpoint import DEFAULT_RETRY, HOUR_MS, MINUTE_MS, RetryPolicy

START_MS = 1_800_000_000_000
DELAYS = st.lists(st.integers(0, 80 * HOUR_MS), min_size=1, max_size=12).map(tuple)
LISTED = st.builds(RetryPolicy, delays_ms=DELAYS, window_ms=st.integers(1, 72 * HOUR_MS))
EXPONENTIAL = st.builds(
    RetryPolicy,
    base_ms=st.integers(1, HOUR_MS),
    max_ms=st.integers(1, 24 * HOUR_MS),
    window_ms=st.integers(1, 72 * HOUR_MS),
)
POLICY = LISTED | EXPONENTIAL


def _attempt_times(policy: RetryPolicy, delivery_id: str) -> list[int]:
    """When each attempt starts, in ms from fan-out, for one that always fails at once."""
    times = [0]
    while (
        following := next_attempt_at_ms(policy, delivery_id, len(times), START_MS + times[-1], START_MS)
    ) is not None:
        times.append(following - START_MS)
    return times


def test_the_default_schedule_in_numbers() -> None:
    hours = [5 / 60, 30 / 60, 2, 5, 10, 12, 12, 12, 12, 12]
    assert [delay_ms(DEFAULT_RETRY, step) for step in range(1, 11)] == [hour * HOUR_MS for hour in hours]
    assert delay_ms(DEFAULT_RETRY, 11) is None
    assert DEFAULT_RETRY.window_ms == 72 * HOUR_MS


def test_the_default_preview_ends_clipped_at_72_hours() -> None:
    minutes = [5, 35, 155, 455, 1_055, 1_775, 2_495, 3_215, 3_935, 72 * 60]
    assert list(preview(DEFAULT_RETRY)) == [minute * MINUTE_MS for minute in minutes]


def test_the_default_makes_ten_or_eleven_attempts_and_the_last_is_at_72_hours() -> None:
    """Without jitter 11; with the most there can be 10, because the delays fill the window sooner."""
    all_times = [_attempt_times(DEFAULT_RETRY, f"dlv_{number}") for number in range(500)]
    assert {len(times) for times in all_times} == {10, 11}
    assert {times[-1] for times in all_times} == {72 * HOUR_MS}
    assert len(list(preview(DEFAULT_RETRY))) + 1 == 11


def test_jitter_adds_up_to_a_quarter_uniformly() -> None:
    """Kolmogorov-Smirnov over 10,000 deliveries, at 99.99 %."""
    drawn, delay = 10_000, HOUR_MS
    shares = sorted((jittered_ms(delay, f"dlv_{n}", 1) - delay) / (delay * JITTER_MAX) for n in range(drawn))
    assert 0 <= shares[0] < 0.01
    assert 0.99 < shares[-1] < 1
    distance = max(abs(share - place / drawn) for place, share in enumerate(shares))
    assert distance < 2.23 / math.sqrt(drawn)


def test_jitter_repeats_for_a_delivery_and_step_and_differs_between_them() -> None:
    one = [jittered_ms(HOUR_MS, "dlv_1", step) for step in range(1, 11)]
    assert one == [jittered_ms(HOUR_MS, "dlv_1", step) for step in range(1, 11)]
    assert len(set(one)) == 10
    assert one != [jittered_ms(HOUR_MS, "dlv_2", step) for step in range(1, 11)]
    assert one[0] == 3_701_180  # the same on every machine, for ever


@given(POLICY, st.integers(1, 50), st.integers(0, 72 * HOUR_MS), st.integers(0, 100 * HOUR_MS))
def test_retry_after_never_shortens_the_schedule(
    policy: RetryPolicy, step: int, failed_after_ms: int, retry_after_ms: int
) -> None:
    failed_at_ms = START_MS + failed_after_ms
    without = next_attempt_at_ms(policy, "dlv_1", step, failed_at_ms, START_MS)
    with_it = next_attempt_at_ms(policy, "dlv_1", step, failed_at_ms, START_MS, retry_after_ms)
    if without is None:
        assert with_it is None
    else:
        wished_ms = min(failed_at_ms + retry_after_ms, window_ends_at_ms(policy, START_MS))
        assert with_it == max(without, wished_ms)


@given(POLICY, st.integers(1, 50), st.integers(0, 80 * HOUR_MS), st.none() | st.integers(0, 100 * HOUR_MS))
def test_the_next_attempt_is_inside_the_window_and_never_early_unless_clipped(
    policy: RetryPolicy, step: int, failed_after_ms: int, retry_after_ms: int | None
) -> None:
    failed_at_ms, ends_at_ms = START_MS + failed_after_ms, window_ends_at_ms(policy, START_MS)
    delay = delay_ms(policy, step)
    following = next_attempt_at_ms(policy, "dlv_1", step, failed_at_ms, START_MS, retry_after_ms)
    if delay is None or failed_at_ms >= ends_at_ms:
        assert following is None
        return
    assert following is not None
    assert failed_at_ms <= following <= ends_at_ms
    latest_ms = failed_at_ms + max(delay * (1 + JITTER_MAX), retry_after_ms or 0)
    assert following <= latest_ms
    assert following >= failed_at_ms + delay or following == ends_at_ms


@given(LISTED.filter(lambda policy: min(policy.delays_ms) > 0), st.text(max_size=5))
def test_attempts_follow_one_another_and_end(policy: RetryPolicy, delivery_id: str) -> None:
    times = _attempt_times(policy, delivery_id)
    assert times == sorted(times)
    assert len(times) <= len(policy.delays_ms) + 1
    assert times[-1] <= policy.window_ms
    if times[-1] < policy.window_ms:
        assert len(times) == len(policy.delays_ms) + 1


@given(EXPONENTIAL)
def test_exponential_doubles_up_to_its_maximum(policy: RetryPolicy) -> None:
    delays = [delay_ms(policy, step) for step in (1, 2, 3, 10, 1_000)]
    assert delays == [min(policy.base_ms * 2**n, policy.max_ms) for n in (0, 1, 2, 9, 50)]


def test_exponential_goes_on_until_the_window_ends() -> None:
    policy = RetryPolicy(base_ms=1_000, max_ms=60_000, window_ms=HOUR_MS)
    times = _attempt_times(policy, "dlv_1")
    assert times[-1] == HOUR_MS
    assert 48 <= len(times) <= 66


@pytest.mark.parametrize("late_ms", [0, 1, HOUR_MS])
def test_a_failure_at_or_after_the_end_of_the_window_has_no_next_attempt(late_ms: int) -> None:
    failed_at_ms = START_MS + DEFAULT_RETRY.window_ms + late_ms
    assert next_attempt_at_ms(DEFAULT_RETRY, "dlv_1", 1, failed_at_ms, START_MS) is None
    assert next_attempt_at_ms(DEFAULT_RETRY, "dlv_1", 1, failed_at_ms, START_MS, 1_000) is None


def test_the_last_moment_of_the_window_is_still_inside() -> None:
    ends_at_ms = START_MS + DEFAULT_RETRY.window_ms
    assert next_attempt_at_ms(DEFAULT_RETRY, "dlv_1", 1, ends_at_ms - 1, START_MS) == ends_at_ms


def test_a_schedule_without_delays_left_has_no_next_attempt() -> None:
    policy = RetryPolicy(delays_ms=(1_000,))
    assert next_attempt_at_ms(policy, "dlv_1", 2, START_MS, START_MS) is None
    assert next_attempt_at_ms(policy, "dlv_1", 2, START_MS, START_MS, 5_000) is None


def test_the_preview_of_a_schedule_that_never_moves_still_ends() -> None:
    assert len(list(preview(RetryPolicy(base_ms=0, max_ms=0)))) == 99


def test_a_step_counts_from_one() -> None:
    with pytest.raises(AssertionError):
        delay_ms(DEFAULT_RETRY, 0)


def test_jitter_never_exceeds_the_maximum_of_an_exponential() -> None:
    policy = RetryPolicy(base_ms=1_000, max_ms=1_000)
    due = [next_attempt_at_ms(policy, f"dlv_{n}", 5, 0, 0) for n in range(200)]
    assert set(due) == {1_000}
