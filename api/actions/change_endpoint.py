"""Changing an endpoint's fields: a merge patch is laid over what it is now, and the whole is checked again.

A new URL is verified first, outside the writer's turn, because that takes seconds and others want to write.
Then the patch is laid over whatever the endpoint is by then, so nobody's change is lost meanwhile.

Source: RFC 7396.
"""

from typing import Any, Final

from msgspec.structs import replace

from api.actions.endpoint_rules import EndpointRules
from api.actions.endpoint_writer import EndpointWriter
from api.actions.verify_endpoint import VerifyEndpoints
from api.auth import Principal
from api.bodies import invalid, pointer, validate
from api.entity_tags import Precondition
from operators.merge_patch import merge_patch
from schemas.endpoint import Endpoint
from schemas.rest.endpoint import MASK, UpdateEndpoint, document_of, etag_of
from schemas.rest.problem import FieldError

_ELSEWHERE: Final = {
    "secret": "is changed by POST .../secret/rotate",
    "status": "is changed by POST .../pause, resume, enable or disable",
}
_FIXED: Final = frozenset({"id", "tenant_id", "created_at", "updated_at", "old_secrets_until", *_ELSEWHERE})
"""Members of an answer that a patch may not hold; the others are fields."""


class ChangeEndpoints:
    """The use case, with what it needs."""

    def __init__(self, writer: EndpointWriter, verifies: VerifyEndpoints, rules: EndpointRules) -> None:
        self._writer = writer
        self._verifies = verifies
        self._rules = rules

    async def change(
        self,
        principal: Principal,
        endpoint_id: str,
        tenant_id: str | None,
        precondition: Precondition,
        patch: dict[str, Any],
    ) -> Endpoint:
        """Returns the endpoint as it is with the patch.

        Raises:
            ProblemError: as `CreateEndpoints.create`, besides `not_found` and `version_conflict`.
        """
        _refuse_fixed(patch)
        current = self._writer.read(endpoint_id, tenant_id)
        precondition.check(etag_of(current))
        fields = self._fields(current, patch)
        policy = self._verifies.policy_of(principal, fields.verification)
        candidate = self._rules.apply(current, fields, self._rules.check(fields))
        verified = candidate
        if candidate.url != current.url:
            verified = await self._verifies.settle(candidate, policy)

        def edit(now: Endpoint) -> Endpoint:
            again = self._fields(now, patch)
            changed = self._rules.apply(now, again, self._rules.check(again))
            if changed.url == verified.url and changed.url != now.url:
                changed = replace(changed, verification=verified.verification)
                changed = self._verifies.with_status_of(changed, verified)
            return now if changed == now else changed

        changed = await self._writer.change(endpoint_id, tenant_id, precondition, edit)
        self._verifies.follow(changed)
        return changed

    def _fields(self, endpoint: Endpoint, patch: dict[str, Any]) -> UpdateEndpoint:
        return validate(UpdateEndpoint, merge_patch(document_of(endpoint), patch))


def _refuse_fixed(patch: dict[str, Any]) -> None:
    errors = [
        FieldError(pointer(name), "not_patchable", _ELSEWHERE.get(name, "cannot be changed; leave it out"))
        for name in patch
        if name in _FIXED
    ]
    headers = patch.get("headers")
    if isinstance(headers, dict):
        detail = "is the mask that reads show; send the value itself, or leave the header out"
        errors += [
            FieldError(pointer("headers", name), "masked", detail)
            for name, value in headers.items()
            if value == MASK
        ]
    if errors:
        raise invalid(errors)
