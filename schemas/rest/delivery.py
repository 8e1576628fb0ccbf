"""Deliveries and attempts as the API shows them, made from the delivery log's views by hand."""

from base64 import b64encode
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Struct
from pydantic import Field

from schemas.delivery_view import AttemptView, DeliveryView, HopView
from schemas.rest.request import RequestBody
from schemas.rest.times import rfc3339, rfc3339_or_none

ATTEMPT_COUNT_MAX: Final = (1 << 32) - 1


class AttemptAnswer(Struct, frozen=True, kw_only=True):
    """One recorded try.

    Attributes:
        state: the delivery's, after it.
        status: of the response; null when there was none, then `error_code` says why.
        headers: selected response headers, as pairs, in their order.
        body: the first 4 KiB of the response, as text when it is UTF-8, else in base64: see `body_encoding`.
        requests_sent: 1, and one more for a followed redirect or for a re-send on a dead connection.
        after_crash: an earlier process may have sent this same attempt before it died.
    """

    id: str
    number: int
    state: str
    started_at: str
    finished_at: str
    url: str
    status: int | None
    error_code: str | None
    error_detail: str | None
    headers: tuple[tuple[str, str], ...]
    body: str
    body_encoding: str
    is_body_truncated: bool
    queued_us: int
    connect_us: int
    first_byte_us: int
    total_us: int
    peer: str
    is_reused_connection: bool
    requests_sent: int
    after_crash: bool
    hops: tuple[HopView, ...]


class DeliveryAnswer(Struct, frozen=True, kw_only=True):
    """One event on its way to one endpoint.

    Attributes:
        reason: why it is in this state; null while nothing has happened.
        next_attempt_at: null when none is planned.
        last_status, last_error_code: of the last attempt; both null before the first one.
    """

    id: str
    tenant_id: str
    event_id: str
    endpoint_id: str
    event_type: str
    replay_id: str | None
    state: str
    reason: str | None
    actor: str | None
    attempt_count: int
    next_attempt_at: str | None
    last_status: int | None
    last_error_code: str | None
    created_at: str
    updated_at: str


class RetryDelivery(RequestBody):
    """The body of `POST /api/v1/deliveries/{id}/retry`; it may be missing.

    Attributes:
        attempt_count: how many attempts the caller has seen; with another number nothing is done.
    """

    attempt_count: Annotated[int, Field(ge=0, le=ATTEMPT_COUNT_MAX)] | None = None


class NoFields(RequestBody):
    """The body of an action that takes none; it may be missing or an empty object."""


class DeliveryAction(StrEnum):
    """What was asked of a delivery."""

    RETRY_NOW = "retry_now"
    RESEND = "resend"
    CANCEL = "cancel"


class ActionAnswer(Struct, frozen=True, kw_only=True):
    """What a 202 to an action says.

    Attributes:
        id: the delivery to watch: of a resend the new one.
        resend_of: the delivery that is sent again, null for other actions.
    """

    id: str
    action: DeliveryAction
    resend_of: str | None = None


def delivery_answer(view: DeliveryView) -> DeliveryAnswer:
    """Returns what the API shows of a delivery."""
    return DeliveryAnswer(
        id=view.id,
        tenant_id=view.tenant_id,
        event_id=view.event_id,
        endpoint_id=view.endpoint_id,
        event_type=view.event_type,
        replay_id=view.replay_id or None,
        state=view.state,
        reason=view.reason or None,
        actor=view.actor or None,
        attempt_count=view.attempt_count,
        next_attempt_at=rfc3339_or_none(view.next_attempt_at_ms),
        last_status=view.last_status,
        last_error_code=view.last_error_code or None,
        created_at=rfc3339(view.created_at_ms),
        updated_at=rfc3339(view.updated_at_ms),
    )


def attempt_answer(view: AttemptView) -> AttemptAnswer:
    """Returns what the API shows of an attempt."""
    try:
        body, encoding = view.body.decode(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = b64encode(view.body).decode("ascii"), "base64"
    return AttemptAnswer(
        id=view.id,
        number=view.number,
        state=view.state,
        started_at=rfc3339(view.started_at_ms),
        finished_at=rfc3339(view.finished_at_ms),
        url=view.url,
        status=view.status,
        error_code=view.error_code or None,
        error_detail=view.error_detail or None,
        headers=view.headers,
        body=body,
        body_encoding=encoding,
        is_body_truncated=view.is_body_truncated,
        queued_us=view.queued_us,
        connect_us=view.connect_us,
        first_byte_us=view.first_byte_us,
        total_us=view.total_us,
        peer=view.peer,
        is_reused_connection=view.is_reused_connection,
        requests_sent=view.requests_sent,
        after_crash=view.after_crash,
        hops=view.hops,
    )
