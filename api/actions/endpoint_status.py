"""An endpoint's status: which action leads from which to which, as one table, and what a verification does.

Every action may be repeated: one that finds its aim reached changes nothing. Enabling raises the generation,
so that a "disabled at generation g" of `deliver` (after a 410) counts no longer.

No way leads around the verification: an endpoint whose receiver has not answered becomes unverified where
others become active, or a pause and a resume would be a way to send to anybody.
"""

from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from api.problems import ProblemError
from schemas.endpoint import Endpoint, EndpointStatus, Verification, VerificationState
from schemas.problem_codes import ProblemCode

ACTIVE, UNVERIFIED, PAUSED, DISABLED = (
    EndpointStatus.ACTIVE,
    EndpointStatus.UNVERIFIED,
    EndpointStatus.PAUSED,
    EndpointStatus.DISABLED,
)


class StatusAction(StrEnum):
    """What a person may ask for."""

    PAUSE = "pause"
    RESUME = "resume"
    DISABLE = "disable"
    ENABLE = "enable"


UNSETTLED: Final = frozenset({VerificationState.PENDING, VerificationState.FAILED})

# What the endpoint becomes, `ACTIVE` only once it is verified; a sentence where that cannot be.
TABLE: Final[dict[tuple[StatusAction, EndpointStatus], EndpointStatus | str]] = {
    (StatusAction.PAUSE, ACTIVE): PAUSED,
    (StatusAction.PAUSE, PAUSED): PAUSED,
    (StatusAction.PAUSE, UNVERIFIED): "It is not verified, so its events are held already.",
    (StatusAction.PAUSE, DISABLED): "It is disabled; enable it first.",
    (StatusAction.RESUME, ACTIVE): ACTIVE,
    (StatusAction.RESUME, PAUSED): ACTIVE,
    (StatusAction.RESUME, UNVERIFIED): "It is not verified; POST .../verify asks its receiver again.",
    (StatusAction.RESUME, DISABLED): "It is disabled; enable it instead.",
    (StatusAction.DISABLE, ACTIVE): DISABLED,
    (StatusAction.DISABLE, PAUSED): DISABLED,
    (StatusAction.DISABLE, UNVERIFIED): DISABLED,
    (StatusAction.DISABLE, DISABLED): DISABLED,
    (StatusAction.ENABLE, ACTIVE): ACTIVE,
    (StatusAction.ENABLE, PAUSED): PAUSED,
    (StatusAction.ENABLE, UNVERIFIED): "It is not verified; POST .../verify asks its receiver again.",
    (StatusAction.ENABLE, DISABLED): ACTIVE,
}


def apply(endpoint: Endpoint, action: StatusAction, now_ms: int) -> Endpoint:
    """Returns the endpoint after the action, the very same when there is nothing to do.

    Raises:
        ProblemError: `wrong_state`, with a sentence that says what to do instead.
    """
    to = TABLE[action, endpoint.status]
    if not isinstance(to, EndpointStatus):
        raise ProblemError(ProblemCode.WRONG_STATE, to)
    if to is ACTIVE and endpoint.verification.state in UNSETTLED:
        to = UNVERIFIED
    if to is endpoint.status:
        return endpoint
    is_enabled = endpoint.status is DISABLED
    return replace(
        endpoint,
        status=to,
        disabled_at_ms=now_ms if to is DISABLED else 0,
        generation=endpoint.generation + is_enabled,
    )


def with_verification(endpoint: Endpoint, verification: Verification) -> Endpoint:
    """Returns the endpoint after a verification; what a person paused or disabled stays so."""
    status = endpoint.status
    if verification.state in UNSETTLED:
        status = UNVERIFIED if status is ACTIVE else status
    elif status is UNVERIFIED:
        status = ACTIVE
    return replace(endpoint, verification=verification, status=status)
