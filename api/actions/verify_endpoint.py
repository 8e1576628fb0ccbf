"""Verification: before events go to a URL, its receiver answers a signed `endpoint.verification` with a 2xx.

It is a real attempt (same signature, same headers, same guard), so what a receiver will get is tried before
the first event. Three policies: `sync` asks while the caller waits and refuses the registration when the
answer is not a 2xx; `async` registers at once and asks in the background, events being held meanwhile; `skip`
asks nobody, which is for operators.

Verifications are limited per tenant and per target host, because each is a request to somebody who has not
agreed to anything yet.
"""

import asyncio
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from msgspec.structs import replace

from api.actions.endpoint_writer import ANY, EndpointWriter
from api.auth import Principal
from api.endpoint_view import EndpointView
from api.entity_tags import Precondition
from api.probes import Probes
from api.problems import ProblemError, invalid_field
from dataflows.connectors.key_ring import KeyRing
from operators.body_format import render
from operators.classify import OK_MAX, OK_MIN
from operators.request_head import make_head, prepare
from schemas.endpoint import Endpoint, EndpointStatus, Verification, VerificationState
from schemas.errors import HooktideError
from schemas.ids import EVENT_PREFIX, time_ordered_id
from schemas.outcome import Outcome
from schemas.problem_codes import ProblemCode
from schemas.rest.endpoint import VerificationPolicy
from schemas.rest.problem import FieldError
from schemas.settings import ApiSettings, EgressSettings

EVENT_TYPE: Final = "endpoint.verification"
TRY_DELAYS_S: Final = (0.0, 10.0, 60.0, 600.0, 3_600.0)
"""Of the policy `async`: before each try. Then a person asks again with POST .../verify."""
_ID_ENTROPY_BYTES: Final = 10
_encode = msgspec.json.Encoder().encode
_log = structlog.stdlib.get_logger("hooktide.api")


class VerifyEndpoints:
    """The use case, with what it needs.

    Args:
        probes: sends the one request; None where a process has no way out: then only `skip` works.
    """

    def __init__(
        self,
        probes: Probes | None,
        writer: EndpointWriter,
        view: EndpointView,
        key_ring: KeyRing,
        settings: tuple[ApiSettings, EgressSettings],
        *,
        clock_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._probes = probes
        self._writer = writer
        self._view = view
        self._key_ring = key_ring
        self._egress = settings[1]
        self._limits = Limits(settings[0], clock_ms)
        self._clock_ms = clock_ms
        self._entropy = entropy
        self._following: dict[str, asyncio.Task[None]] = {}

    def policy_of(self, principal: Principal, named: VerificationPolicy | None) -> VerificationPolicy:
        """Returns the policy that a body asks for.

        Raises:
            ProblemError: `forbidden` when a tenant's key asks for `skip`, `invalid_fields` if none is sent.
        """
        policy = named or "sync"
        if policy == "skip" and principal.tenant_id is not None:
            detail = 'A tenant\'s key cannot skip the verification; use "sync" or "async".'
            raise ProblemError(ProblemCode.FORBIDDEN, detail)
        if policy != "skip" and self._probes is None:
            detail = 'is not possible in this process, which sends nothing; say "skip".'
            raise invalid_field("/verification", "not_available", detail)
        return policy

    async def settle(self, endpoint: Endpoint, policy: VerificationPolicy) -> Endpoint:
        """Returns the endpoint as the policy leaves it before it is written.

        Raises:
            ProblemError: `endpoint_unreachable` or `rate_limited`, for `sync`.
        """
        now_ms = self._clock_ms()
        if policy == "skip":
            return _settled(endpoint, Verification(VerificationState.SKIPPED, now_ms))
        if policy == "async":
            pending = replace(endpoint, verification=Verification(VerificationState.PENDING, now_ms))
            is_waiting = endpoint.status in (EndpointStatus.ACTIVE, EndpointStatus.UNVERIFIED)
            return replace(pending, status=EndpointStatus.UNVERIFIED) if is_waiting else pending
        return _settled(endpoint, await self._ask_once(endpoint))

    def with_status_of(self, changed: Endpoint, verified: Endpoint) -> Endpoint:
        """Returns the changed endpoint with what the verification made of the status, pauses left alone."""
        if changed.status in (EndpointStatus.ACTIVE, EndpointStatus.UNVERIFIED):
            return replace(changed, status=verified.status)
        return changed

    async def verify(self, endpoint_id: str, tenant_id: str | None, precondition: Precondition) -> Endpoint:
        """Asks an endpoint's receiver now; returns the endpoint as it is then.

        Raises:
            ProblemError: `endpoint_unreachable`, `rate_limited`, `not_found`, `version_conflict`.
        """
        asked = self._writer.read(endpoint_id, tenant_id)
        if self._probes is None:
            detail = "This process sends nothing; ask one that does."
            raise ProblemError(ProblemCode.NOT_READY, detail)
        verification = await self._ask_once(asked)
        return await self._writer.change(
            endpoint_id, tenant_id, precondition, lambda now: _taken_over(now, asked, verification)
        )

    def follow(self, endpoint: Endpoint) -> None:
        """Verifies an endpoint that waits for it in the background; others are left alone."""
        is_pending = endpoint.verification.state is VerificationState.PENDING
        if is_pending and self._probes is not None and endpoint.id not in self._following:
            task = asyncio.create_task(self._try_until_known(endpoint.id))
            self._following[endpoint.id] = task
            task.add_done_callback(lambda _: self._following.pop(endpoint.id, None))

    def follow_all(self) -> None:
        """Goes on with what an earlier process left pending."""
        for endpoint_id in self._view.list_ids(None, ""):
            endpoint = self._view.get(endpoint_id)
            if endpoint is not None:
                self.follow(endpoint)

    async def close(self) -> None:
        """Stops the background; what is pending is gone on with at the next start."""
        following = list(self._following.values())
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)

    async def _try_until_known(self, endpoint_id: str) -> None:
        while True:
            endpoint = self._view.get(endpoint_id)
            if endpoint is None or endpoint.verification.state is not VerificationState.PENDING:
                return
            try_count = min(endpoint.verification.try_count, len(TRY_DELAYS_S) - 1)
            await asyncio.sleep(TRY_DELAYS_S[try_count])
            try:
                await self._try(endpoint, is_last=try_count + 1 == len(TRY_DELAYS_S))
            except ProblemError as problem:  # deleted meanwhile, too many of them, the log is slow
                _log.info("verification_put_off", endpoint=endpoint_id, because=problem.code)
                await asyncio.sleep(float(problem.headers.get("Retry-After", "1")))
            except HooktideError as error:
                _log.warning("verification_stopped", endpoint=endpoint_id, error=str(error))
                return

    async def _try(self, endpoint: Endpoint, *, is_last: bool) -> None:
        self._limits.hit(endpoint)
        outcome = await self._ask(endpoint)
        if _is_success(outcome):
            verification = Verification(VerificationState.VERIFIED, self._clock_ms())
        else:
            verification = Verification(
                VerificationState.FAILED if is_last else VerificationState.PENDING,
                self._clock_ms(),
                _code_of(outcome),
                endpoint.verification.try_count + 1,
            )
        await self._writer.change(
            endpoint.id, None, ANY, lambda now: _taken_over(now, endpoint, verification)
        )

    async def _ask_once(self, endpoint: Endpoint) -> Verification:
        self._limits.hit(endpoint)
        outcome = await self._ask(endpoint)
        if _is_success(outcome):
            return Verification(VerificationState.VERIFIED, self._clock_ms())
        raise _unreachable(outcome)

    async def _ask(self, endpoint: Endpoint) -> Outcome:
        assert self._probes is not None, "asked before"
        now_ms = self._clock_ms()
        event_id = time_ordered_id(EVENT_PREFIX, now_ms, self._entropy(_ID_ENTROPY_BYTES))
        data = _encode({"endpoint_id": endpoint.id})
        body = render(event_id, EVENT_TYPE, now_ms, endpoint.api_version, data)
        head = make_head(endpoint, self._egress.user_agent, self._egress.connect_timeout_ms)
        secrets = self._key_ring.open_secrets(endpoint, now_ms)
        return await self._probes.send(prepare(head, (0, 0), event_id, body, secrets, now_ms))


class Limits:
    """How often verifications may be sent: per tenant, and per target host whoever asks."""

    def __init__(self, settings: ApiSettings, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._per_tenant = RateLimitItemPerMinute(settings.verifications_per_minute_tenant)
        self._per_host = RateLimitItemPerMinute(settings.verifications_per_minute_host)

    def hit(self, endpoint: Endpoint) -> None:
        """Counts one.

        Raises:
            ProblemError: `rate_limited`, with `Retry-After`.
        """
        host = urlsplit(endpoint.url).hostname or ""
        limits = ((self._per_tenant, "tenant", endpoint.tenant_id), (self._per_host, "host", host))
        for item, kind, name in limits:
            if not self._limiter.test(item, kind, name):
                window = self._limiter.get_window_stats(item, kind, name)
                wait_s = max(1, round(window.reset_time - self._clock_ms() / 1_000))
                raise ProblemError(
                    ProblemCode.RATE_LIMITED,
                    f"At most {item.amount} verifications a minute for one {kind}; try in {wait_s} s.",
                    headers={"Retry-After": str(wait_s)},
                )
        for item, kind, name in limits:
            self._limiter.hit(item, kind, name)


def _settled(endpoint: Endpoint, verification: Verification) -> Endpoint:
    verified = replace(endpoint, verification=verification)
    is_waiting = endpoint.status is EndpointStatus.UNVERIFIED
    return replace(verified, status=EndpointStatus.ACTIVE) if is_waiting else verified


def _taken_over(now: Endpoint, asked: Endpoint, verification: Verification) -> Endpoint:
    """Returns the endpoint with the answer, unless it has another URL by now."""
    if now.url != asked.url:
        return now
    if verification.state is VerificationState.VERIFIED:
        return _settled(now, verification)
    return replace(now, verification=verification)


def _is_success(outcome: Outcome) -> bool:
    return outcome.status is not None and OK_MIN <= outcome.status <= OK_MAX


def _code_of(outcome: Outcome) -> str:
    return outcome.error_code or f"status_{outcome.status}"


def _unreachable(outcome: Outcome) -> ProblemError:
    if outcome.error_code.is_ours:
        return ProblemError(
            ProblemCode.NOT_READY,
            "The verification could not be sent, which is our fault; try again.",
            headers={"Retry-After": "1"},
        )
    if outcome.status is not None and not outcome.error_code:
        what = f"It answered {outcome.status}"
    else:
        what = f"The attempt ended with {outcome.error_code}: {outcome.error_detail or 'no answer'}"
    return ProblemError(
        ProblemCode.ENDPOINT_UNREACHABLE,
        f"{what.rstrip('.')}. A signed POST of type {EVENT_TYPE} must be answered with a 2xx before the"
        ' endpoint is used; mend the receiver, or register with "verification": "async".',
        errors=(FieldError("/url", _code_of(outcome), "did not answer a verification with a 2xx"),),
        extensions={"attempt": {"status": outcome.status, "error_code": _code_of(outcome)}},
    )
