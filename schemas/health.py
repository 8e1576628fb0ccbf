"""An endpoint's health, as the API and the breaker read it."""

from enum import StrEnum

from msgspec import Struct


class Verdict(StrEnum):
    """What `assess` makes of an endpoint; the only thing the breaker reads."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILING = "failing"


class Health(Struct, frozen=True):
    """A score for people and a verdict for the breaker, with the reasons in words."""

    score: int
    verdict: Verdict
    reasons: tuple[str, ...] = ()
