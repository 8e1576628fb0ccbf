"""One verification: a signed POST of type `endpoint.verification`, and what its outcome means.

It is a real attempt (same signature, same headers, same guard), so what a receiver will get is tried before
the first event.

What the answer says about it must not turn us into a scanner of the network we stand in. So a refusal of our
guard is one sentence without an address or a rule, whether the URL itself or a redirect led there; and of a
receiver's answer nothing but the status is shown.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from api.actions.verification_limits import VerificationLimits
from api.probes import Probes
from api.problems import ProblemError
from dataflows.connectors.key_ring import KeyRing
from operators.body_format import render
from operators.classify import OK_MAX, OK_MIN
from operators.request_head import make_head, prepare
from schemas.endpoint import Endpoint, Verification, VerificationState
from schemas.ids import EVENT_PREFIX, time_ordered_id
from schemas.outcome import ErrorCode, Outcome
from schemas.problem_codes import ProblemCode
from schemas.rest.problem import FieldError

EVENT_TYPE: Final = "endpoint.verification"
_ID_ENTROPY_BYTES: Final = 10
_encode = msgspec.json.Encoder().encode


class AskReceiver:
    """Asks receivers.

    Args:
        probes: sends the one request; None where a process has no way out.
        user_agent: of the request.
        connect_timeout_ms: DNS, TCP and TLS together.
        wall_ms: the time that is signed: what the receiver's clock is compared with.
    """

    def __init__(
        self,
        probes: Probes | None,
        limits: VerificationLimits,
        key_ring: KeyRing,
        *,
        user_agent: str,
        connect_timeout_ms: int,
        clock_ms: Callable[[], int],
        wall_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._probes = probes
        self._limits = limits
        self._key_ring = key_ring
        self._user_agent = user_agent
        self._connect_timeout_ms = connect_timeout_ms
        self._clock_ms = clock_ms
        self._wall_ms = wall_ms
        self._entropy = entropy

    @property
    def can_ask(self) -> bool:
        """Whether this process has a way out."""
        return self._probes is not None

    async def ask(self, endpoint: Endpoint) -> Outcome:
        """Sends one verification to the endpoint's URL.

        Raises:
            ProblemError: `rate_limited`; `not_ready` when our own side failed, which says nothing about it.
            Unavailable: the process is stopping.
        """
        assert self._probes is not None, "asked before"
        self._limits.hit(endpoint)
        now_ms = self._clock_ms()
        event_id = time_ordered_id(EVENT_PREFIX, now_ms, self._entropy(_ID_ENTROPY_BYTES))
        data = _encode({"endpoint_id": endpoint.id})
        body = render(event_id, EVENT_TYPE, now_ms, endpoint.api_version, data)
        head = make_head(endpoint, self._user_agent, self._connect_timeout_ms)
        secrets = self._key_ring.open_secrets(endpoint, now_ms)
        outcome = await self._probes.send(prepare(head, (0, 0), event_id, body, secrets, self._wall_ms()))
        if outcome.error_code.is_ours:
            raise ProblemError(
                ProblemCode.NOT_READY,
                "The verification could not be sent, which is our fault; try again.",
                headers={"Retry-After": "1"},
            )
        return outcome

    def judge(self, outcome: Outcome) -> Verification:
        """Returns what an outcome makes of the verification: verified, or failed with the error code."""
        now_ms = self._clock_ms()
        if outcome.status is not None and OK_MIN <= outcome.status <= OK_MAX:
            return Verification(VerificationState.VERIFIED, now_ms)
        return Verification(VerificationState.FAILED, now_ms, code_of(outcome))


def code_of(outcome: Outcome) -> str:
    """Returns the error code of an outcome that is no success; `status_500` for an answer that came whole."""
    return outcome.error_code or f"status_{outcome.status}"


def unreachable(outcome: Outcome) -> ProblemError:
    """Returns the refusal of an endpoint whose receiver did not answer with a 2xx."""
    if outcome.error_code is ErrorCode.URL_NOT_ALLOWED:
        detail = "leads to an address that webhooks are not sent to; use a public one"
        error = FieldError("/url", ErrorCode.URL_NOT_ALLOWED.value, detail)
        return ProblemError(ProblemCode.URL_NOT_ALLOWED, f"/url: {detail}.", errors=(error,))
    if outcome.error_code:
        what = f"The attempt ended with {outcome.error_code}: {outcome.error_detail or 'no answer'}"
    else:
        what = f"It answered {outcome.status}"
    return ProblemError(
        ProblemCode.ENDPOINT_UNREACHABLE,
        f"{what.rstrip('.')}. A signed POST of type {EVENT_TYPE} must be answered with a 2xx before the"
        ' endpoint is used; mend the receiver, or register with "verification": "async".',
        errors=(FieldError("/url", code_of(outcome), "did not answer a verification with a 2xx"),),
        extensions={"attempt": {"status": outcome.status, "error_code": code_of(outcome)}},
    )
