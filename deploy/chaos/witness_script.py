"""How the witness answers on each path, and the secrets it verifies with: what a scenario gives it."""

from msgspec import Struct


class PathScript(Struct, frozen=True):
    """One endpoint's receiver. The shares are of requests, drawn from the run's seed; what is left succeeds.

    Attributes:
        secrets: `whsec_...`; any of them may have signed.
        delay_ms: before each answer; it keeps requests in flight.
        fail_share: answered with `fail_status`.
        hang_share: never answered; the connection stays open.
        reset_share: the connection is reset instead of an answer.
        retry_after_s: sent with a failure; 0 for none.
    """

    secrets: tuple[str, ...]
    delay_ms: int = 0
    fail_share: float = 0.0
    fail_status: int = 500
    hang_share: float = 0.0
    reset_share: float = 0.0
    retry_after_s: int = 0


class WitnessScript(Struct, frozen=True):
    """All paths; what is asked for on another path is answered with 404, and written down too."""

    seed: int
    paths: dict[str, PathScript]
