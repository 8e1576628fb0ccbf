"""Rotating an endpoint's secret: the new one signs at once, the old ones sign too until the overlap ends."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from api.actions.create_endpoint import Created
from api.actions.endpoint_rules import EndpointRules, secret_errors
from api.actions.endpoint_writer import EndpointWriter
from api.bodies import invalid
from api.entity_tags import Precondition
from dataflows.connectors.key_ring import KeyRing
from operators.signing import encode_secret
from schemas.endpoint import Endpoint, SealedSecret
from schemas.rest.endpoint import OVERLAP_SECONDS, RotateSecret

SECRETS_MAX: Final = 10
"""As many signatures a receiver may have to look at, and 50 bytes of header each. Svix: 10."""


class RotateSecrets:
    """The use case, with what it needs."""

    def __init__(
        self,
        writer: EndpointWriter,
        rules: EndpointRules,
        key_ring: KeyRing,
        clock_ms: Callable[[], int],
    ) -> None:
        self._writer = writer
        self._rules = rules
        self._key_ring = key_ring
        self._clock_ms = clock_ms

    async def rotate(
        self, endpoint_id: str, tenant_id: str | None, precondition: Precondition, body: RotateSecret
    ) -> Created:
        """Returns the endpoint with its new secret, which is shown this once.

        Rotating to the secret that signs already changes nothing.

        Raises:
            ProblemError: `invalid_fields`, `not_found`, `version_conflict`, `log_unavailable`.
        """
        errors = secret_errors(self._rules, body.secret)
        if errors:
            raise invalid(errors)
        secret = self._rules.secret_of(body.secret)
        overlap_ms = 1_000 * (OVERLAP_SECONDS if body.overlap_seconds is None else body.overlap_seconds)

        def edit(endpoint: Endpoint) -> Endpoint:
            now_ms = self._clock_ms()
            if self._key_ring.open_secrets(endpoint, now_ms)[:1] == (secret,):
                return endpoint  # brought again after an answer that was lost
            sealed = self._key_ring.seal(secret, endpoint.id)
            return replace(endpoint, secrets=(sealed, *_expiring(endpoint.secrets, now_ms, overlap_ms)))

        endpoint = await self._writer.change(endpoint_id, tenant_id, precondition, edit)
        return Created(endpoint, encode_secret(secret))


def _expiring(secrets: tuple[SealedSecret, ...], now_ms: int, overlap_ms: int) -> list[SealedSecret]:
    """Returns the secrets that still sign, newest first; none lives longer than it was going to."""
    until_ms = now_ms + overlap_ms
    kept = [
        replace(
            one, expires_at_ms=until_ms if one.expires_at_ms is None else min(until_ms, one.expires_at_ms)
        )
        for one in secrets
    ]
    return [one for one in kept if (one.expires_at_ms or 0) > now_ms][: SECRETS_MAX - 1]
