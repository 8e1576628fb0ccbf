"""The events that this process accepted in the last minute: the bridge until the delivery log shows them.

A 202 promises that the event can be read at once, and the delivery log shows it up to 2 s later. In between,
reads are answered from here: the event as it was accepted, its deliveries as `pending` (their ids are
derived, so they are known before anybody made them). It is bounded in time and in bytes; at a rate that fills
it sooner it still reaches back longer than the delivery log needs.

Rejected: waiting for `record` before the 202 (the log is what makes an event durable, not the delivery log),
and reading the log at the event's position (it would need an index of ids).
"""

from collections import OrderedDict
from typing import Final

from msgspec import Struct

from schemas.event import Event
from schemas.ids import delivery_id

KEPT_MS: Final = 60_000
BYTES_MAX: Final = 64 << 20
_OVERHEAD_BYTES: Final = 1_000  # of an entry without its data: the structs, the ids, the table
_DELIVERIES_MAX: Final = 100_000


class RecentEvent(Struct, frozen=True, gc=False):
    """An event that was accepted here.

    Attributes:
        id: also in `event`, where it may be missing in general.
        recorded_at_ms: the log's append time.
        endpoint_ids: who matched when it was accepted.
    """

    id: str
    event: Event
    recorded_at_ms: int
    endpoint_ids: tuple[str, ...]


class RecentDelivery(Struct, frozen=True, gc=False):
    """A delivery that comes of a recent event, unless its endpoint is deleted before the fan-out."""

    id: str
    endpoint_id: str
    of: RecentEvent


class RecentEvents:
    """A map bounded in time and bytes, oldest first. Belongs to the event loop's thread."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._events: OrderedDict[str, RecentEvent] = OrderedDict()
        self._deliveries: OrderedDict[str, RecentDelivery] = OrderedDict()

    def __len__(self) -> int:
        return len(self._events)

    def add(self, recent: RecentEvent, now_ms: int) -> None:
        """Remembers an accepted event and forgets what is too old or too much."""
        if recent.id in self._events:  # the first acceptance stands
            return
        self._events[recent.id] = recent
        self._bytes += _size_of(recent)
        while self._events:
            oldest = next(iter(self._events.values()))
            if self._bytes <= self._bytes_max and oldest.recorded_at_ms > now_ms - KEPT_MS:
                break
            del self._events[oldest.id]
            self._bytes -= _size_of(oldest)

    def get(self, event_id: str, now_ms: int) -> RecentEvent | None:
        """Returns the event when it was accepted here within the last minute."""
        recent = self._events.get(event_id)
        return recent if recent is not None and recent.recorded_at_ms > now_ms - KEPT_MS else None

    def deliveries_of(self, recent: RecentEvent) -> list[RecentDelivery]:
        """Returns the deliveries that come of it, and remembers their ids, which now become known."""
        found = [RecentDelivery(delivery_id(recent.id, one), one, recent) for one in recent.endpoint_ids]
        for delivery in found:
            self._deliveries[delivery.id] = delivery
        while len(self._deliveries) > _DELIVERIES_MAX:
            self._deliveries.popitem(last=False)
        return found

    def delivery(self, of_delivery: str, now_ms: int) -> RecentDelivery | None:
        """Returns a delivery that `deliveries_of` has named, while its event is recent."""
        delivery = self._deliveries.get(of_delivery)
        return None if delivery is None or self.get(delivery.of.id, now_ms) is None else delivery


def _size_of(recent: RecentEvent) -> int:
    return len(bytes(recent.event.data)) + 40 * len(recent.endpoint_ids) + _OVERHEAD_BYTES
