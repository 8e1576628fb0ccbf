"""Changing an endpoint's fields: a merge patch is laid over what it is now, and the whole is checked again.

A new URL is verified first, outside the writer's turn, because that takes seconds and others want to write.
Then the patch is laid over whatever the endpoint is by then, so nobody's change is lost meanwhile.

Source: RFC 7396.
"""

from typing import Any, Final

from api.actions.endpoint_rules import EndpointRules
from api.actions.endpoint_status import UNSETTLED, with_verification
from api.actions.endpoint_writer import EndpointWriter
from api.actions.pending_verifications import PendingVerifications
from api.actions.verify_endpoint import VerifyEndpoints
from api.auth import Principal
from api.bodies import invalid, pointer, validate
from api.entity_tags import Precondition
from operators.merge_patch import merge_patch
from schemas.endpoint import Endpoint
from schemas.rest.endpoint import UpdateEndpoint, document_of, etag_of
from schemas.rest.problem import FieldError

_ELSEWHERE: Final = {
    "secret": "is changed by POST .../secret/rotate",
    "status": "is changed by POST .../pause, resume, enable or disable",
}
_FIXED: Final = frozenset({"id", "tenant_id", "created_at", "updated_at", "old_secrets_until", *_ELSEWHERE})
"""Members of an answer that a patch may not hold; the others are fields."""


class ChangeEndpoints:
    """The use case, with what it needs."""

    def __init__(
        self,
        writer: EndpointWriter,
        verifies: VerifyEndpoints,
        pending: PendingVerifications,
        rules: EndpointRules,
    ) -> None:
        self._writer = writer
        self._verifies = verifies
        self._pending = pending
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
        candidate = self._rules.apply(current, fields, self._rules.check(fields))
        is_named = fields.verification is not None
        is_asked = candidate.url != current.url or (is_named and _is_unsettled(current))
        verification = current.verification
        if is_asked or is_named:
            policy = self._verifies.policy_of(principal, fields.verification)
        if is_asked:
            verification = await self._verifies.settle(candidate, policy)

        def edit(now: Endpoint) -> Endpoint:
            again = self._fields(now, patch)
            changed = self._rules.apply(now, again, self._rules.check(again))
            is_wanted = changed.url != now.url or (is_asked and _is_unsettled(now))
            if is_wanted and changed.url == candidate.url:
                changed = with_verification(changed, verification)
            return now if changed == now else changed

        changed = await self._writer.change(endpoint_id, tenant_id, precondition, edit)
        self._pending.follow(changed)
        return changed

    def _fields(self, endpoint: Endpoint, patch: dict[str, Any]) -> UpdateEndpoint:
        document = document_of(endpoint)
        return validate(UpdateEndpoint, merge_patch(document, _respelled(patch, document["headers"])))


def _is_unsettled(endpoint: Endpoint) -> bool:
    return endpoint.verification.state in UNSETTLED


def _respelled(patch: dict[str, Any], known: dict[str, str]) -> dict[str, Any]:
    """Returns the patch with header names as the endpoint spells them: their case does not count.

    Else `{"headers": {"authorization": null}}` would quietly leave an `Authorization` where it is.
    """
    headers = patch.get("headers")
    if not isinstance(headers, dict):
        return patch
    spelled = {name.lower(): name for name in known}
    names = [spelled.get(name.lower(), name) for name in headers]
    if len(set(names)) < len(names):  # twice in one patch: left as it is, and refused by the rules
        return patch
    return {**patch, "headers": dict(zip(names, headers.values(), strict=True))}


def _refuse_fixed(patch: dict[str, Any]) -> None:
    errors = [
        FieldError(pointer(name), "not_patchable", _ELSEWHERE.get(name, "cannot be changed; leave it out"))
        for name in patch
        if name in _FIXED
    ]
    if errors:
        raise invalid(errors)
