"""Events at the REST edge: the body of a publish, its answer, and an event as it is read back."""

from typing import Annotated, Any

from msgspec import Raw, Struct
from msgspec.structs import asdict
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from schemas.delivery_view import EventView
from schemas.rest.event_summary import EventSummaryAnswer, event_summary_answer
from schemas.rest.request import RequestBody
from schemas.rest.times import parse_rfc3339


def _check_time(text: str) -> str:
    try:
        parse_rfc3339(text)
    except ValueError as error:
        raise PydanticCustomError("invalid_format", "{reason}.", {"reason": str(error)}) from error
    return text


class PublishEvent(RequestBody):
    """The body of `POST /api/v1/events`.

    Attributes:
        data: any JSON value; the bytes are taken from the body, this only says that it is there.
        occurred_at: RFC 3339; when the producer says it happened.
        endpoint_ids: exactly these endpoints of the tenant, whatever they subscribed to.
    """

    tenant_id: str | None = None
    type: str
    data: Any
    occurred_at: Annotated[str, AfterValidator(_check_time)] | None = None
    endpoint_ids: list[str] | None = None

    @property
    def occurred_at_ms(self) -> int | None:
        """When it happened, milliseconds UTC."""
        return None if self.occurred_at is None else parse_rfc3339(self.occurred_at)


class PublishAnswer(Struct, frozen=True):
    """What a 202 says.

    Attributes:
        accepted_at: the log's append time.
        matched_endpoints: how many endpoints subscribe to it now; what `route` sees decides.
    """

    id: str
    type: str
    accepted_at: str
    matched_endpoints: int


class EventAnswer(EventSummaryAnswer, frozen=True, kw_only=True):
    """An event as it was accepted; `data` is the producer's bytes."""

    data: Raw


def event_answer(view: EventView) -> EventAnswer:
    """Returns what the API shows of an event."""
    return EventAnswer(**asdict(event_summary_answer(view)), data=Raw(view.data))
