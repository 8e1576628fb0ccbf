"""What outcomes mean: the whole table, status by status and error by error."""

from itertools import product

import pytest

from operators.classify import Action, Judgement, classify
from schemas.endpoint import WINDOW_MS, ClientErrorPolicy
from schemas.outcome import ErrorCode, Outcome
from schemas.transition import Reason

STATUSES = [None, *range(100, 1_000)]
OURS = {ErrorCode.OUR_SHUTDOWN, ErrorCode.OUR_FAULT}
HEADERS: list[tuple[tuple[str, str], ...]] = [
    (),
    (("retry-after", "120"),),
    (("retry-after", "soon"),),
    (("date", "x"), ("retry-after", str(10**9))),
]
WISHES_MS = dict(zip(HEADERS, [None, 120_000, None, WINDOW_MS], strict=True))


def _outcome(
    status: int | None, error: ErrorCode = ErrorCode.NONE, headers: tuple[tuple[str, str], ...] = ()
) -> Outcome:
    return Outcome(
        token=(0, 0), started_at_ms=0, finished_at_ms=0, status=status, error_code=error, headers=headers
    )


def _expected(status: int | None, error: ErrorCode, policy: ClientErrorPolicy) -> Action:
    """The table of DESIGN section 5, written a second time and otherwise."""
    if status is not None and status // 100 == 2:
        return Action.DELIVERED
    if error in OURS:
        return Action.NOT_AN_ATTEMPT
    if status == 410:
        return Action.DEAD_LETTER
    if status is not None and status // 100 == 4 and status not in (408, 429):
        return Action.DEAD_LETTER if policy is ClientErrorPolicy.DEAD_LETTER else Action.RETRY
    return Action.RETRY


@pytest.mark.parametrize("policy", list(ClientErrorPolicy))
@pytest.mark.parametrize("headers", HEADERS, ids=["none", "120 s", "garbage", "31 years"])
def test_every_status_with_every_error_is_in_the_table(
    policy: ClientErrorPolicy, headers: tuple[tuple[str, str], ...]
) -> None:
    wish_ms = WISHES_MS[headers]
    for status, error in product(STATUSES, ErrorCode):
        judgement = classify(_outcome(status, error, headers), policy, WINDOW_MS)
        case = (status, error, judgement)
        assert judgement.action is _expected(status, error, policy), case
        assert judgement.is_endpoint_gone == (status == 410 and error not in OURS), case
        is_retried_answer = judgement.action is Action.RETRY and status is not None
        assert judgement.retry_after_ms == (wish_ms if is_retried_answer else None), case
        pauses = is_retried_answer and status in (429, 503) and wish_ms is not None
        assert judgement.pause_ms == (wish_ms if pauses else 0), case


def test_our_own_faults_never_count() -> None:
    """No attempt, no pause, no disabling, whatever came with them; a 2xx that arrived is a success."""
    for status, error, policy in product(STATUSES, OURS, ClientErrorPolicy):
        judgement = classify(_outcome(status, error, HEADERS[1]), policy, WINDOW_MS)
        if status is None or status // 100 != 2:
            assert judgement == Judgement(Action.NOT_AN_ATTEMPT), (status, error)


def test_every_error_without_a_status_is_retried() -> None:
    for error in set(ErrorCode) - OURS:
        assert (
            classify(_outcome(None, error), ClientErrorPolicy.DEAD_LETTER, WINDOW_MS).action is Action.RETRY
        )


def test_a_status_whose_body_was_cut_decides() -> None:
    for error in (ErrorCode.TIMEOUT, ErrorCode.CONNECTION_RESET, ErrorCode.RESPONSE_TOO_LARGE):
        assert classify(_outcome(204, error), ClientErrorPolicy.RETRY, WINDOW_MS).action is Action.DELIVERED
        gone = classify(_outcome(410, error), ClientErrorPolicy.RETRY, WINDOW_MS)
        assert gone.reason is Reason.ENDPOINT_GONE


def test_a_dead_letter_says_why() -> None:
    for status in set(range(400, 500)) - {408, 410, 429}:
        judgement = classify(_outcome(status), ClientErrorPolicy.DEAD_LETTER, WINDOW_MS)
        assert judgement.reason is Reason.PERMANENT_STATUS


def test_the_first_retry_after_counts() -> None:
    headers = (("retry-after", "5"), ("retry-after", "500"))
    judgement = classify(_outcome(429, headers=headers), ClientErrorPolicy.DEAD_LETTER, WINDOW_MS)
    assert judgement.pause_ms == 5_000


def test_a_date_counts_from_the_end_of_the_attempt() -> None:
    outcome = Outcome(
        token=(0, 0),
        started_at_ms=0,
        finished_at_ms=784_111_770_000,
        status=503,
        headers=(("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"),),
    )
    judgement = classify(outcome, ClientErrorPolicy.DEAD_LETTER, WINDOW_MS)
    assert (judgement.retry_after_ms, judgement.pause_ms) == (7_000, 7_000)
