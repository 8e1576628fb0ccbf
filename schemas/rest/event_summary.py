"""An event in a list: all but its data. A page of 200 events with data could weigh 50 MB."""

from msgspec import Struct

from schemas.delivery_view import EventSummary
from schemas.rest.times import rfc3339


class EventSummaryAnswer(Struct, frozen=True, kw_only=True):
    """What every answer shows of an event; a read of the one event adds its data.

    Attributes:
        occurred_at: when the producer says it happened, else `accepted_at`.
    """

    id: str
    tenant_id: str
    type: str
    accepted_at: str
    occurred_at: str
    idempotency_key: str | None


def event_summary_answer(view: EventSummary) -> EventSummaryAnswer:
    """Returns what a list shows of an event."""
    return EventSummaryAnswer(
        id=view.id,
        tenant_id=view.tenant_id,
        type=view.type,
        accepted_at=rfc3339(view.recorded_at_ms),
        occurred_at=rfc3339(view.occurred_at_ms),
        idempotency_key=view.idempotency_key or None,
    )
