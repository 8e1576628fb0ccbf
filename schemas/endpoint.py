"""An endpoint: a receiver's URL with its settings; the value of a record of the compacted `endpoints`."""

from enum import StrEnum

from msgspec import Struct

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
WINDOW_MS = 72 * HOUR_MS
"""How long after its fan-out a delivery may be tried; then it is a dead letter."""


class EndpointStatus(StrEnum):
    """What a person (or a 410) made of the endpoint. Deleted is the record's tombstone, not a status.

    Events match an unverified endpoint as they match a paused one, and are held.
    """

    ACTIVE = "active"
    UNVERIFIED = "unverified"
    PAUSED = "paused"
    DISABLED = "disabled"


class VerificationState(StrEnum):
    """Whether the receiver answered a signed `endpoint.verification` at its present URL."""

    SKIPPED = "skipped"
    PENDING = "pending"
    VERIFIED = "verified"
    FAILED = "failed"


class Verification(Struct, frozen=True, omit_defaults=True):
    """What became of the last verification.

    Attributes:
        at_ms: when it was skipped, asked for or answered.
        error_code: why it failed; empty otherwise.
        try_count: of a pending one, tries so far.
    """

    state: VerificationState = VerificationState.SKIPPED
    at_ms: int = 0
    error_code: str = ""
    try_count: int = 0


class RedirectPolicy(StrEnum):
    """What a 301, 302, 307 or 308 means here."""

    FOLLOW_ONCE = "follow_once"
    FAIL = "fail"


class ClientErrorPolicy(StrEnum):
    """What a 4xx other than 408, 410 and 429 means here."""

    DEAD_LETTER = "dead_letter"
    RETRY = "retry"


class Ordering(StrEnum):
    """Whether a failed delivery blocks the ones after it (`fifo`) or not (`none`)."""

    NONE = "none"
    FIFO = "fifo"


class RetryPolicy(Struct, frozen=True, omit_defaults=True):
    """When the next attempt comes: a list of delays, or an exponential, inside a window.

    Attributes:
        delays_ms: delay before attempt 2, 3, ...; N delays make N + 1 attempts. Empty: exponential.
        base_ms, max_ms: the exponential `min(base_ms * 2^n + jitter, max_ms)`.
        window_ms: from fan-out; the last attempt is clipped to its end. At most 72 h.
    """

    delays_ms: tuple[int, ...] = ()
    base_ms: int = 5_000
    max_ms: int = 12 * HOUR_MS
    window_ms: int = WINDOW_MS


# 5 m, 30 m, 2 h, 5 h, 10 h, then every 12 h until the last attempt is clipped to 72 h.
DEFAULT_RETRY = RetryPolicy(
    delays_ms=(5 * MINUTE_MS, 30 * MINUTE_MS, 2 * HOUR_MS, 5 * HOUR_MS, 10 * HOUR_MS, *(5 * (12 * HOUR_MS,)))
)


class SealedSecret(Struct, frozen=True, array_like=True):
    """A signing secret encrypted with AES-GCM; the plain bytes exist only inside a process's key ring.

    Attributes:
        key_id: which master key sealed it; an unknown one refuses to start.
        sealed: 12 bytes nonce, then ciphertext and tag.
        expires_at_ms: end of the overlap after a rotation; None for the current one.
    """

    key_id: str
    sealed: bytes
    expires_at_ms: int | None = None


class Endpoint(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A receiver of one tenant.

    Attributes:
        event_types: patterns: `*`, an exact type, or a prefix with `.*`; at most 100.
        secrets: newest first; every unexpired one signs.
        retry: None means the process's default schedule.
        generation: raised by enabling; "disabled at generation g" in `endpoint_status` counts only for g.
        revision: raised by every management write; the ETag.
        timeout_ms: of one attempt, connect to last byte.
        disabled_at_ms: when a person disabled it; 0 unless it is disabled. Events match for 72 h from then.
    """

    id: str
    tenant_id: str
    url: str
    event_types: tuple[str, ...]
    secrets: tuple[SealedSecret, ...]
    created_at_ms: int
    updated_at_ms: int
    api_version: str = "1"
    description: str = ""
    headers: dict[str, str] = {}
    retry: RetryPolicy | None = None
    status: EndpointStatus = EndpointStatus.ACTIVE
    generation: int = 1
    revision: int = 1
    timeout_ms: int = 15_000  # GitHub 10 s, Stripe 20 s, Svix 15 s
    redirects: RedirectPolicy = RedirectPolicy.FOLLOW_ONCE
    client_errors: ClientErrorPolicy = ClientErrorPolicy.DEAD_LETTER
    ordering: Ordering = Ordering.NONE
    max_concurrency: int = 64
    rate_limit_per_s: float | None = None
    disabled_at_ms: int = 0
    verification: Verification = Verification()


class DisabledReport(Struct, frozen=True, omit_defaults=True):
    """What `deliver` says in `endpoint_status`: the endpoint answered 410, so `generation` is disabled."""

    endpoint_id: str
    generation: int
    disabled_at_ms: int
    reason: str
