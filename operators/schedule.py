"""When the next attempt comes: a pure function of the policy, the delivery and the time of the failure.

The table of delays is the contract (5 m, 30 m, 2 h, 5 h, 10 h, then every 12 h); jitter adds 0-25 % so that
deliveries which failed together do not come back together, and is drawn from (delivery id, step), so the same
history gives the same times on any machine. Jitter only adds: a receiver never sees us earlier than promised.
"""

from collections.abc import Iterator

from schemas.endpoint import RetryPolicy
from schemas.ids import unit_interval

JITTER_MAX = 0.25
_EXPONENT_MAX = 40  # 2^40 times any base is beyond every window; keeps the integer small


def window_ends_at_ms(policy: RetryPolicy, fanned_out_at_ms: int) -> int:
    """Returns the moment after which no attempt starts."""
    return fanned_out_at_ms + policy.window_ms


def delay_ms(policy: RetryPolicy, step: int) -> int | None:
    """Returns the delay before attempt `step` + 1 without jitter, or None when the schedule has ended.

    Args:
        policy: a list of delays, or an exponential when the list is empty.
        step: how many attempts have counted so far, from 1.
    """
    assert step >= 1, step
    if policy.delays_ms:
        return policy.delays_ms[step - 1] if step <= len(policy.delays_ms) else None
    return min(policy.base_ms << min(step - 1, _EXPONENT_MAX), policy.max_ms)


def jittered_ms(delay: int, delivery_id: str, step: int) -> int:
    """Returns the delay plus 0-25 % of it, drawn from the delivery and the step."""
    return delay + int(delay * JITTER_MAX * unit_interval("jitter", delivery_id, str(step)))


def next_attempt_at_ms(
    policy: RetryPolicy,
    delivery_id: str,
    step: int,
    failed_at_ms: int,
    fanned_out_at_ms: int,
    retry_after_ms: int | None = None,
) -> int | None:
    """Returns when the next attempt is due, or None when there is none left.

    A Retry-After counts when it is longer than the schedule's delay; it never shortens it. The last attempt
    is clipped to the window's end; a failure at or after that end has no next one.

    Args:
        policy: the endpoint's, or the process's default.
        delivery_id: draws the jitter.
        step: attempts that have counted so far, the failed one included.
        failed_at_ms: when the failed attempt ended.
        fanned_out_at_ms: when the window began.
        retry_after_ms: the receiver's wish, from `failed_at_ms`.
    """
    ends_at_ms = window_ends_at_ms(policy, fanned_out_at_ms)
    delay = delay_ms(policy, step)
    if delay is None or failed_at_ms >= ends_at_ms:
        return None
    wait_ms = jittered_ms(delay, delivery_id, step)
    if not policy.delays_ms:
        wait_ms = min(wait_ms, policy.max_ms)
    return min(failed_at_ms + max(wait_ms, retry_after_ms or 0), ends_at_ms)


def preview(policy: RetryPolicy, attempts_max: int = 100) -> Iterator[int]:
    """Yields the time of each attempt after the first, in ms from fan-out, without jitter."""
    at_ms = 0
    for step in range(1, attempts_max):
        following = delay_ms(policy, step)
        if following is None or at_ms >= policy.window_ms:
            return
        at_ms = min(at_ms + following, policy.window_ms)
        yield at_ms
