"""Creating an endpoint: every rule for its settings is asked, every broken one is named, then it is written.

The rules themselves stand in `operators`, because the sender, `route` and the command line hold them too.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from api.actions.endpoint_writer import EndpointWriter
from api.auth import Principal
from api.bodies import invalid, pointer
from api.problems import ProblemError
from dataflows.connectors.key_ring import KeyRing
from operators.body_format import API_VERSIONS
from operators.event_rules import is_tenant_id
from operators.matching import pattern_faults
from operators.request_head import check_own_headers
from operators.signing import SECRET_BYTES, decode_secret, encode_secret
from operators.target_url import UrlRefusal, check_target_url
from schemas.endpoint import ClientErrorPolicy, Endpoint, RedirectPolicy
from schemas.errors import BadInput, LogUnavailable
from schemas.ids import ENDPOINT_PREFIX, time_ordered_id
from schemas.problem_codes import ProblemCode
from schemas.rest.endpoint import CreateEndpoint
from schemas.rest.problem import FieldError
from schemas.settings import EgressSettings

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
        key_ring: KeyRing,
        egress: EgressSettings,
        *,
        clock_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._writer = writer
        self._key_ring = key_ring
        self._egress = egress
        self._clock_ms = clock_ms
        self._entropy = entropy

    async def create(self, principal: Principal, body: CreateEndpoint) -> Created:
        """Checks, seals, writes; returns when a read shows it.

        Raises:
            ProblemError: `invalid_fields`, `url_not_allowed`, or `log_unavailable` with the endpoint's id.
        """
        tenant_id = principal.tenant_of_write(body.tenant_id)
        url, secret = self._checked(body, tenant_id)
        endpoint = self._endpoint_of(body, tenant_id, url, secret)
        try:
            await self._writer.write(endpoint)
        except LogUnavailable as error:
            raise ProblemError(
                ProblemCode.LOG_UNAVAILABLE,
                f"It is not known whether the endpoint was created. Read {endpoint.id}: when it is there, it"
                " works, but its secret was never shown; when it is not, create it again.",
                headers={"Retry-After": "1"},
                extensions={"endpoint_id": endpoint.id},
            ) from error
        return Created(endpoint, encode_secret(secret))

    def _checked(self, body: CreateEndpoint, tenant_id: str) -> tuple[str, bytes]:
        """Returns the normal form of the URL and the secret, or raises with every broken rule."""
        errors = _errors_of(body, tenant_id)
        url = check_target_url(body.url, allow_private=self._egress.allow_private_networks)
        if isinstance(url, UrlRefusal):
            errors.append(FieldError("/url", url.code, url.detail.removesuffix(".")))
        secret = b""
        try:
            secret = self._entropy(SECRET_BYTES) if body.secret is None else decode_secret(body.secret)
        except BadInput as error:
            errors.append(FieldError("/secret", "invalid", str(error)))
        if errors:
            is_url_only = len(errors) == 1 and isinstance(url, UrlRefusal)
            raise invalid(errors, ProblemCode.URL_NOT_ALLOWED if is_url_only else ProblemCode.INVALID_FIELDS)
        assert not isinstance(url, UrlRefusal), "named above"
        return url.url, secret

    def _endpoint_of(self, body: CreateEndpoint, tenant_id: str, url: str, secret: bytes) -> Endpoint:
        now_ms = self._clock_ms()
        endpoint_id = time_ordered_id(ENDPOINT_PREFIX, now_ms, self._entropy(_ID_ENTROPY_BYTES))
        return Endpoint(
            id=endpoint_id,
            tenant_id=tenant_id,
            url=url,
            event_types=tuple(body.event_types),
            secrets=(self._key_ring.seal(secret, endpoint_id),),
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            api_version=body.api_version or API_VERSIONS[-1],
            description=body.description or "",
            headers=body.headers or {},
            retry=None if body.retry is None else body.retry.to_policy(),
            timeout_ms=body.timeout_ms or self._egress.timeout_ms,
            redirects=body.redirects or RedirectPolicy.FOLLOW_ONCE,
            client_errors=body.client_errors or ClientErrorPolicy.DEAD_LETTER,
        )


def _errors_of(body: CreateEndpoint, tenant_id: str) -> list[FieldError]:
    """Returns what is wrong with everything but the URL and the secret."""
    errors: list[FieldError] = []
    if not is_tenant_id(tenant_id):
        errors.append(FieldError("/tenant_id", "invalid", "is 1-64 letters, digits or any of _ . : -"))
    for fault in pattern_faults(body.event_types):
        at = pointer("event_types") if fault.place is None else pointer("event_types", fault.place)
        errors.append(FieldError(at, "invalid", fault.detail))
    for problem in check_own_headers(body.headers or {}):
        at = pointer("headers", problem.name) if problem.name else pointer("headers")
        errors.append(FieldError(at, "not_allowed", problem.detail.removesuffix(".")))
    if body.api_version is not None and body.api_version not in API_VERSIONS:
        errors.append(FieldError("/api_version", "not_allowed", f"is one of {', '.join(API_VERSIONS)}"))
    if body.verification in ("sync", "async"):
        detail = (
            'is not available yet; leave it out, or say "skip" (the endpoint is not asked before it is used)'
        )
        errors.append(FieldError("/verification", "not_available", detail))
    return errors
