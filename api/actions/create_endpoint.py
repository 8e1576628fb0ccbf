"""Creating an endpoint: checked, verified, sealed, written. Nothing is written before the receiver agreed."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from api.actions.endpoint_rules import EndpointRules, secret_errors, tenant_errors
from api.actions.endpoint_status import with_verification
from api.actions.endpoint_writer import EndpointWriter
from api.actions.pending_verifications import PendingVerifications
from api.actions.verify_endpoint import VerifyEndpoints
from api.auth import Principal
from api.problems import ProblemError
from dataflows.connectors.key_ring import KeyRing
from operators.signing import encode_secret
from schemas.endpoint import Endpoint
from schemas.errors import LogUnavailable
from schemas.ids import ENDPOINT_PREFIX, time_ordered_id
from schemas.problem_codes import ProblemCode
from schemas.rest.endpoint import CreateEndpoint

_ID_ENTROPY_BYTES: Final = 10


class Created(Struct, frozen=True):
    """A new endpoint and its secret, which is shown this once."""

    endpoint: Endpoint
    secret: str


class CreateEndpoints:
    """The use case, with what it needs."""

    def __init__(
        self,
        writer: EndpointWriter,
        verifies: VerifyEndpoints,
        pending: PendingVerifications,
        rules: EndpointRules,
        key_ring: KeyRing,
        clock_ms: Callable[[], int],
    ) -> None:
        self._writer = writer
        self._verifies = verifies
        self._pending = pending
        self._rules = rules
        self._key_ring = key_ring
        self._clock_ms = clock_ms

    async def create(self, principal: Principal, body: CreateEndpoint) -> Created:
        """Checks, verifies, seals, writes; returns when a read shows it.

        Raises:
            ProblemError: `invalid_fields`, `url_not_allowed`, `endpoint_unreachable`, `rate_limited`,
                `not_ready`, or `log_unavailable` with the endpoint's id.
        """
        tenant_id = principal.tenant_of_write(body.tenant_id)
        url = self._rules.check(body, *tenant_errors(tenant_id), *secret_errors(self._rules, body.secret))
        policy = self._verifies.policy_of(principal, body.verification)
        secret = self._rules.secret_of(body.secret)
        now_ms = self._clock_ms()
        endpoint_id = time_ordered_id(ENDPOINT_PREFIX, now_ms, self._rules.entropy(_ID_ENTROPY_BYTES))
        bare = Endpoint(
            id=endpoint_id,
            tenant_id=tenant_id,
            url=url,
            event_types=(),
            secrets=(self._key_ring.seal(secret, endpoint_id),),
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        asked = self._rules.apply(bare, body, url)
        verified = with_verification(asked, await self._verifies.settle(asked, policy))
        written_at_ms = self._clock_ms()  # a verification takes its time, and matching begins now
        endpoint = replace(verified, created_at_ms=written_at_ms, updated_at_ms=written_at_ms)
        try:
            await self._writer.create(endpoint)
        except LogUnavailable as error:
            raise ProblemError(
                ProblemCode.LOG_UNAVAILABLE,
                f"It is not known whether the endpoint was created. Read {endpoint.id}: when it is there, it"
                " works, but its secret was never shown; rotate it. When it is not, create it again.",
                headers={"Retry-After": "1"},
                extensions={"endpoint_id": endpoint.id},
            ) from error
        self._pending.follow(endpoint)
        return Created(endpoint, encode_secret(secret))
