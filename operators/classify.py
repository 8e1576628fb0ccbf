"""What an outcome means for its delivery and its endpoint: one table, applied once.

| outcome | delivery | endpoint |
|---|---|---|
| 2xx | delivered; the status line decides, the body is evidence only | |
| 429 | retry | pause until Retry-After |
| 503 with Retry-After | retry, not before it | pause until Retry-After |
| 408, other 5xx, Retry-After respected | retry | |
| 410 | dead letter | disable |
| other 4xx | dead letter, or retry by the endpoint's option | |
| 3xx that was not followed | retry (the receiver may be mid-move) | |
| 1xx, 6xx and up | retry: no HTTP we know | |
| no status: timeout, reset, refused, TLS, DNS, protocol | retry | |
| address or redirect refused by our egress guard | retry: names move, and the window ends it | |
| our own fault or shutdown | not an attempt | |

An attempt whose status arrived and whose body was cut keeps the status.
"""

from enum import StrEnum

from msgspec import Struct

from operators.retry_after import retry_after_ms
from schemas.endpoint import ClientErrorPolicy
from schemas.outcome import Outcome
from schemas.transition import Reason


class Action(StrEnum):
    """What happens to the delivery next."""

    DELIVERED = "delivered"
    RETRY = "retry"
    DEAD_LETTER = "dead_letter"
    NOT_AN_ATTEMPT = "not_an_attempt"


class Judgement(Struct, frozen=True, gc=False):
    """The meaning of one outcome.

    Attributes:
        retry_after_ms: the receiver's wish, from the end of the attempt.
        pause_ms: how long the whole endpoint waits; 0 for not at all.
        is_endpoint_gone: whether the endpoint asked not to be called again (410).
    """

    action: Action
    reason: Reason = Reason.FAILED
    retry_after_ms: int | None = None
    pause_ms: int = 0
    is_endpoint_gone: bool = False


DELIVERED = Judgement(Action.DELIVERED, Reason.DELIVERED)
RETRY = Judgement(Action.RETRY)
PERMANENT = Judgement(Action.DEAD_LETTER, Reason.PERMANENT_STATUS)
GONE = Judgement(Action.DEAD_LETTER, Reason.ENDPOINT_GONE, is_endpoint_gone=True)
NOT_AN_ATTEMPT = Judgement(Action.NOT_AN_ATTEMPT)

OK_MIN, OK_MAX = 200, 299
CLIENT_ERROR_MIN, CLIENT_ERROR_MAX = 400, 499
REQUEST_TIMEOUT, GONE_STATUS, TOO_MANY_REQUESTS, UNAVAILABLE = 408, 410, 429, 503


def classify(outcome: Outcome, client_errors: ClientErrorPolicy, window_ms: int) -> Judgement:
    """Returns what the outcome means.

    Args:
        outcome: as the sender saw it.
        client_errors: the endpoint's option for permanent 4xx.
        window_ms: the most that a Retry-After can ask for.
    """
    status = outcome.status
    if status is not None and OK_MIN <= status <= OK_MAX:
        return DELIVERED
    if outcome.error_code.is_ours:
        return NOT_AN_ATTEMPT
    if status is None:
        return RETRY
    if status == GONE_STATUS:
        return GONE
    is_client_error = CLIENT_ERROR_MIN <= status <= CLIENT_ERROR_MAX
    if is_client_error and status not in (REQUEST_TIMEOUT, TOO_MANY_REQUESTS):
        return PERMANENT if client_errors is ClientErrorPolicy.DEAD_LETTER else _retry(outcome, window_ms)
    return _retry(outcome, window_ms)


def _retry(outcome: Outcome, window_ms: int) -> Judgement:
    asked = next((value for name, value in outcome.headers if name == "retry-after"), None)
    wait_ms = retry_after_ms(asked, outcome.finished_at_ms) if asked is not None else None
    if wait_ms is None:
        return RETRY
    wait_ms = min(wait_ms, window_ms)
    pauses = outcome.status in (TOO_MANY_REQUESTS, UNAVAILABLE)
    return Judgement(Action.RETRY, retry_after_ms=wait_ms, pause_ms=wait_ms if pauses else 0)
