"""Verification: before events go to a URL, its receiver answers a signed `endpoint.verification` with a 2xx.

Three policies: `sync` asks while the caller waits, and refuses the registration when the answer is not a 2xx;
`async` registers at once and asks in the background, events being held meanwhile; `skip` asks nobody, which
is for operators.
"""

from collections.abc import Callable

from api.actions.ask_receiver import AskReceiver, unreachable
from api.actions.endpoint_writer import EndpointWriter
from api.actions.pending_verifications import taken_over
from api.auth import Principal
from api.entity_tags import Precondition
from api.problems import ProblemError, invalid_field
from schemas.endpoint import Endpoint, Verification, VerificationState
from schemas.problem_codes import ProblemCode
from schemas.rest.endpoint import VerificationPolicy, etag_of


class VerifyEndpoints:
    """The use case, with what it needs."""

    def __init__(self, asks: AskReceiver, writer: EndpointWriter, clock_ms: Callable[[], int]) -> None:
        self._asks = asks
        self._writer = writer
        self._clock_ms = clock_ms

    def policy_of(self, principal: Principal, named: VerificationPolicy | None) -> VerificationPolicy:
        """Returns the policy that a body asks for.

        Raises:
            ProblemError: `forbidden` when a tenant's key asks for `skip`, `invalid_fields` if none is sent.
        """
        policy = named or "sync"
        if policy == "skip" and principal.tenant_id is not None:
            detail = 'A tenant\'s key cannot skip the verification; use "sync" or "async".'
            raise ProblemError(ProblemCode.FORBIDDEN, detail)
        if policy != "skip" and not self._asks.can_ask:
            detail = 'is not possible in this process, which sends nothing; say "skip".'
            raise invalid_field("/verification", "not_available", detail)
        return policy

    async def settle(self, endpoint: Endpoint, policy: VerificationPolicy) -> Verification:
        """Returns what the policy makes of the verification before the endpoint is written.

        Raises:
            ProblemError: for `sync`: `endpoint_unreachable`, `url_not_allowed`, `rate_limited`, `not_ready`.
        """
        if policy == "sync":
            return await self._ask(endpoint)
        state = VerificationState.SKIPPED if policy == "skip" else VerificationState.PENDING
        return Verification(state, self._clock_ms())

    async def verify(self, endpoint_id: str, tenant_id: str | None, precondition: Precondition) -> Endpoint:
        """Asks an endpoint's receiver now; returns the endpoint as it is then.

        Raises:
            ProblemError: as `settle` for `sync`, besides `not_found`, `version_conflict`, `log_unavailable`.
        """
        asked = self._writer.read(endpoint_id, tenant_id)
        precondition.check(etag_of(asked))
        if not self._asks.can_ask:
            detail = "This process sends nothing; ask one that does."
            raise ProblemError(ProblemCode.NOT_READY, detail)
        verification = await self._ask(asked)
        return await self._writer.change(
            endpoint_id, tenant_id, precondition, lambda now: taken_over(now, asked, verification)
        )

    async def _ask(self, endpoint: Endpoint) -> Verification:
        outcome = await self._asks.ask(endpoint)
        verification = self._asks.judge(outcome)
        if verification.state is VerificationState.FAILED:
            raise unreachable(outcome)
        return verification
