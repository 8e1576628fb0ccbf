"""Endpoints at the REST edge: the body of a create, the answer, and the mapping to the record, by hand.

Seconds where people write them (retry), milliseconds where the name says so. What needs more than the shape
of a field (the URL's rules, patterns, own headers, the secret's encoding) is judged in `api.actions`.
"""

from typing import Annotated, Any, Final, Literal, Self

from msgspec import UNSET, Struct, UnsetType, to_builtins
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.endpoint import (
    HOUR_MS,
    WINDOW_MS,
    ClientErrorPolicy,
    Endpoint,
    RedirectPolicy,
    RetryPolicy,
)
from schemas.rest.request import RequestBody
from schemas.rest.times import rfc3339

DELAYS_MAX: Final = 100
MASK: Final = "********"
TIMEOUT_MS_MAX: Final = 30_000

OVERLAP_SECONDS: Final = 24 * 3_600
OVERLAP_SECONDS_MAX: Final = 7 * 24 * 3_600
VerificationPolicy = Literal["sync", "async", "skip"]

_WINDOW_SECONDS: Final = WINDOW_MS // 1_000
_DelaySeconds = Annotated[float, Field(ge=0.1, le=_WINDOW_SECONDS)]
# Values of headers with such names are credentials more often than not: taken, sent, and never shown.
_CREDENTIAL_WORDS: Final = ("auth", "cookie", "token", "secret", "key", "password", "signature", "credential")


class RetryBody(RequestBody):
    """When the next attempt comes: `delays_seconds`, or `base_seconds` with `max_seconds`; both in a window.

    Attributes:
        delays_seconds: before attempt 2, 3, ...; N delays make N + 1 attempts.
        base_seconds, max_seconds: the exponential min(base * 2^n, max); default of max: 12 h.
        window_seconds: from acceptance; at most 72 h, which is the default.
    """

    delays_seconds: list[_DelaySeconds] | None = Field(default=None, min_length=1, max_length=DELAYS_MAX)
    base_seconds: _DelaySeconds | None = None
    max_seconds: _DelaySeconds | None = None
    window_seconds: Annotated[float, Field(ge=1, le=_WINDOW_SECONDS)] | None = None

    @model_validator(mode="after")
    def _is_one_form(self) -> Self:
        is_exponential = self.base_seconds is not None or self.max_seconds is not None
        if is_exponential == (self.delays_seconds is not None):
            raise PydanticCustomError(
                "one_form",
                "must hold either delays_seconds, or base_seconds (with max_seconds); null the other form.",
            )
        if is_exponential and self.base_seconds is None:
            raise PydanticCustomError("one_form", "must hold base_seconds when it holds max_seconds.")
        if self.max_seconds is not None and self.max_seconds < (self.base_seconds or 0):
            raise PydanticCustomError("out_of_range", "max_seconds must not be less than base_seconds.")
        return self

    def to_policy(self) -> RetryPolicy:
        """Returns the policy as the record keeps it."""
        window_ms = WINDOW_MS if self.window_seconds is None else _ms(self.window_seconds)
        if self.delays_seconds is not None:
            return RetryPolicy(delays_ms=tuple(map(_ms, self.delays_seconds)), window_ms=window_ms)
        assert self.base_seconds is not None, "held by the validator"
        max_ms = (
            max(12 * HOUR_MS, _ms(self.base_seconds)) if self.max_seconds is None else _ms(self.max_seconds)
        )
        return RetryPolicy(base_ms=_ms(self.base_seconds), max_ms=max_ms, window_ms=window_ms)


class EndpointFields(RequestBody):
    """What a person decides of an endpoint, at its creation and later.

    Attributes:
        timeout_ms: of one attempt; the default is `egress.timeout_ms`.
    """

    url: Annotated[str, Field(min_length=1, max_length=8_192)]
    event_types: list[str]
    api_version: str | None = None
    description: Annotated[str, Field(max_length=512)] | None = None
    headers: dict[str, str] | None = None
    retry: RetryBody | None = None
    timeout_ms: Annotated[int, Field(ge=100, le=TIMEOUT_MS_MAX)] | None = None
    redirects: Annotated[RedirectPolicy, Field(strict=False)] | None = None
    client_errors: Annotated[ClientErrorPolicy, Field(strict=False)] | None = None


class CreateEndpoint(EndpointFields):
    """The body of `POST /api/v1/webhooks/endpoints`.

    Attributes:
        tenant_id: required with the admin key, implied by a tenant's.
        secret: `whsec_` + base64 of 24-64 bytes; drawn when absent.
        verification: when the receiver proves itself; `sync` when absent.
    """

    tenant_id: str | None = None
    secret: Annotated[str, Field(max_length=200)] | None = None
    verification: VerificationPolicy | None = None


class UpdateEndpoint(EndpointFields):
    """An endpoint's fields with a patch laid over them, as `PATCH` checks them.

    Attributes:
        verification: of a URL that is new, or that nobody has verified yet; `sync` when absent.
    """

    verification: VerificationPolicy | None = None


class RotateSecret(RequestBody):
    """The body of `POST .../secret/rotate`; may be empty.

    Attributes:
        secret: the new one; drawn when absent.
        overlap_seconds: how long the old ones sign too; default a day.
    """

    secret: Annotated[str, Field(max_length=200)] | None = None
    overlap_seconds: Annotated[int, Field(ge=0, le=OVERLAP_SECONDS_MAX)] | None = None


class SendTest(RequestBody):
    """The body of `POST .../test`; may be empty.

    Attributes:
        type: of the event; default `endpoint.test`. Sent whatever the endpoint subscribed to.
    """

    type: str | None = None


class RetryAnswer(Struct, frozen=True, omit_defaults=True):
    """An endpoint's own schedule, in the form in which it was given."""

    delays_seconds: list[float] | UnsetType = UNSET
    base_seconds: float | UnsetType = UNSET
    max_seconds: float | UnsetType = UNSET
    window_seconds: float | UnsetType = UNSET


class VerificationAnswer(Struct, frozen=True):
    """What became of the verification of the endpoint's URL.

    Attributes:
        error_code: of the attempt, when it failed; empty otherwise.
    """

    state: str
    at: str
    error_code: str


class EndpointAnswer(Struct, frozen=True, kw_only=True):
    """An endpoint as the API shows it.

    Attributes:
        secret: in the answers to the create and to a rotation only.
        headers: values of names that look like credentials are masked.
        retry: null means the default schedule.
        disabled_at: when a person, or a 410, disabled it; null unless it is disabled.
        old_secrets_until: until when secrets of before the last rotation sign too; null when none does.
    """

    id: str
    tenant_id: str
    url: str
    event_types: tuple[str, ...]
    status: str
    api_version: str
    description: str
    headers: dict[str, str]
    retry: RetryAnswer | None
    timeout_ms: int
    redirects: str
    client_errors: str
    verification: VerificationAnswer
    disabled_at: str | None
    old_secrets_until: str | None
    created_at: str
    updated_at: str
    secret: str | UnsetType = UNSET


def etag_of(endpoint: Endpoint) -> str:
    """Returns the strong entity tag: the revision, which every management write raises, and the status.

    The status, because a 410 disables an endpoint without a management write.
    """
    return f'"{endpoint.revision}-{endpoint.status}"'


def document_of(endpoint: Endpoint) -> dict[str, Any]:
    """Returns the fields that a person decides, in the form of `EndpointFields`, for patches."""
    document: dict[str, Any] = {
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "api_version": endpoint.api_version,
        "description": endpoint.description,
        "headers": dict(endpoint.headers),
        "redirects": endpoint.redirects.value,
        "client_errors": endpoint.client_errors.value,
    }
    if endpoint.timeout_ms <= TIMEOUT_MS_MAX:  # the setting that defaults come from may be larger
        document["timeout_ms"] = endpoint.timeout_ms
    if endpoint.retry is not None:
        document["retry"] = to_builtins(_retry_answer(endpoint.retry))
    return document


def answer_of(endpoint: Endpoint, now_ms: int, secret: str | None = None) -> EndpointAnswer:
    """Returns what the API shows; `secret` is given once, by the create or the rotation that made it."""
    overlaps = [one.expires_at_ms for one in endpoint.secrets if (one.expires_at_ms or 0) > now_ms]
    verification = endpoint.verification
    return EndpointAnswer(
        id=endpoint.id,
        tenant_id=endpoint.tenant_id,
        url=endpoint.url,
        event_types=endpoint.event_types,
        status=endpoint.status,
        api_version=endpoint.api_version,
        description=endpoint.description,
        headers={name: MASK if _is_credential(name) else value for name, value in endpoint.headers.items()},
        retry=None if endpoint.retry is None else _retry_answer(endpoint.retry),
        timeout_ms=endpoint.timeout_ms,
        redirects=endpoint.redirects,
        client_errors=endpoint.client_errors,
        verification=VerificationAnswer(
            verification.state,
            rfc3339(verification.at_ms or endpoint.created_at_ms),
            verification.error_code,
        ),
        disabled_at=rfc3339(endpoint.disabled_at_ms) if endpoint.disabled_at_ms else None,
        old_secrets_until=rfc3339(max(filter(None, overlaps))) if overlaps else None,
        created_at=rfc3339(endpoint.created_at_ms),
        updated_at=rfc3339(endpoint.updated_at_ms),
        secret=UNSET if secret is None else secret,
    )


def _retry_answer(policy: RetryPolicy) -> RetryAnswer:
    window_seconds = policy.window_ms / 1_000
    if policy.delays_ms:
        return RetryAnswer(
            delays_seconds=[delay / 1_000 for delay in policy.delays_ms], window_seconds=window_seconds
        )
    return RetryAnswer(
        base_seconds=policy.base_ms / 1_000, max_seconds=policy.max_ms / 1_000, window_seconds=window_seconds
    )


def _is_credential(name: str) -> bool:
    lower = name.lower()
    return any(word in lower for word in _CREDENTIAL_WORDS)


def _ms(seconds: float) -> int:
    return round(seconds * 1_000)
