"""Pause, resume, disable, enable: which status a person may lead to which, as one table.

Every action may be repeated: one that finds its aim reached changes nothing. Enabling raises the generation,
so that a "disabled at generation g" of `deliver` (after a 410) counts no longer.
"""

from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from api.problems import ProblemError
from schemas.endpoint import Endpoint, EndpointStatus
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


# What the endpoint becomes; a sentence where that cannot be.
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
    if to is endpoint.status:
        return endpoint
    is_enabled = endpoint.status is DISABLED
    return replace(
        endpoint,
        status=to,
        disabled_at_ms=now_ms if to is DISABLED else 0,
        generation=endpoint.generation + is_enabled,
    )
