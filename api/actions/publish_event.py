"""Publishing: a body becomes one durable record of `events`, and the caller learns its name.

With an idempotency key the key names the event, for ever and in every process; the gate only remembers the
answer. Without one the id is drawn, in time order. Either way the record carries the id, so nobody downstream
decides again.

The 202 is given after the log's acknowledgement. When that does not come in time nobody knows whether the
event exists, so the 503 names the event and the key that publishes *this* event again, not another one.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec

from api.auth import Principal
from api.bodies import invalid, parse_object, too_large, validate
from api.endpoint_view import EndpointView
from api.idempotency_key import event_id_of, retry_key_of
from api.log_writes import LogWrites
from api.metrics import ApiMetrics
from api.problems import ProblemError
from api.recent_events import RecentEvent, RecentEvents
from dataflows.connectors.log.port import Entry, TopicPartition
from operators.event_rules import DATA_BYTES_MAX, violations
from schemas.endpoint import Endpoint
from schemas.errors import LogUnavailable
from schemas.event import Event
from schemas.ids import EVENT_PREFIX, partition_of, time_ordered_id
from schemas.problem_codes import ProblemCode
from schemas.rest.event import PublishAnswer, PublishEvent
from schemas.rest.problem import FieldError
from schemas.rest.times import rfc3339
from schemas.topics import EVENTS
from schemas.wire.records import encode_event

_ID_ENTROPY_BYTES: Final = 10
_DIGEST_BYTES: Final = 16


class _DataOnly(msgspec.Struct, gc=False):
    """Reads the bytes of `data` out of a body; everything else was read before."""

    data: msgspec.Raw


_read_data = msgspec.json.Decoder(_DataOnly).decode
_encode = msgspec.json.Encoder().encode


class PublishEvents:
    """The use case, with what it needs."""

    def __init__(
        self,
        writes: LogWrites,
        view: EndpointView,
        recent: RecentEvents,
        metrics: ApiMetrics,
        *,
        partitions: int,
        clock_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._writes = writes
        self._view = view
        self._recent = recent
        self._metrics = metrics
        self._partitions = partitions
        self._clock_ms = clock_ms
        self._entropy = entropy

    def event_of(self, principal: Principal, key: str | None, raw: bytes) -> Event:
        """Returns the event that a body and a key describe, its id settled.

        Raises:
            ProblemError: `malformed_json`, `invalid_fields`, `too_large`.
        """
        body = validate(PublishEvent, parse_object(raw))
        tenant_id = principal.tenant_of_write(body.tenant_id)
        data = _read_data(raw).data.copy()  # a copy, so that nothing keeps the whole request alive
        if len(bytes(data)) > DATA_BYTES_MAX:
            raise too_large(f"/data has more than {DATA_BYTES_MAX} bytes; send a reference to it instead.")
        now_ms = self._clock_ms()
        event = Event(
            tenant_id=tenant_id,
            type=body.type,
            data=data,
            id=event_id_of(tenant_id, key)
            if key is not None
            else time_ordered_id(EVENT_PREFIX, now_ms, self._entropy(_ID_ENTROPY_BYTES)),
            idempotency_key=key,
            occurred_at_ms=body.occurred_at_ms,
            endpoint_ids=None if body.endpoint_ids is None else tuple(body.endpoint_ids),
        )
        _refuse_violations(event)
        return event

    async def publish_for(self, endpoint: Endpoint, event_type: str, data: msgspec.Raw) -> PublishAnswer:
        """Publishes an event of our own making for one endpoint, whatever it subscribed to.

        Raises:
            ProblemError: `invalid_fields`, `log_unavailable`.
        """
        event_id = time_ordered_id(EVENT_PREFIX, self._clock_ms(), self._entropy(_ID_ENTROPY_BYTES))
        event = Event(
            tenant_id=endpoint.tenant_id,
            type=event_type,
            data=data,
            id=event_id,
            endpoint_ids=(endpoint.id,),
        )
        _refuse_violations(event)
        return await self.append(event)

    async def append(self, event: Event) -> PublishAnswer:
        """Makes the event durable.

        Raises:
            ProblemError: `log_unavailable`, with the event's id and the key to try again with.
        """
        assert event.id is not None, "settled by event_of"
        to = TopicPartition(EVENTS.name, partition_of(event.tenant_id, self._partitions))
        try:
            appended = await self._writes.append(to, [Entry(event.tenant_id.encode(), encode_event(event))])
        except LogUnavailable as error:
            self._metrics.unsure.inc()
            raise _unsure(event.id, event.idempotency_key) from error
        matches = self._view.match(event.tenant_id, event.type, event.endpoint_ids, appended.timestamp_ms)
        self._recent.add(
            RecentEvent(
                event.id,
                event,
                appended.timestamp_ms,
                tuple([one.endpoint_id for one in matches.subscribers]),
            ),
            self._clock_ms(),
        )
        self._metrics.accepted.inc()
        return PublishAnswer(event.id, event.type, rfc3339(appended.timestamp_ms), len(matches.subscribers))


def digest_of(event: Event) -> bytes:
    """Returns what makes two publishes under one key the same: all but ids and the envelope's spelling."""
    rest = _encode([event.type, event.occurred_at_ms, event.endpoint_ids])
    return blake2b(rest + b"\0" + bytes(event.data), digest_size=_DIGEST_BYTES).digest()


def _refuse_violations(event: Event) -> None:
    broken = violations(event)
    if broken:
        raise invalid([FieldError(*violation) for violation in broken])


def _unsure(event_id: str, key: str | None) -> ProblemError:
    retry_key = retry_key_of(event_id) if key is None else key
    return ProblemError(
        ProblemCode.LOG_UNAVAILABLE,
        "It is not known whether the event was accepted. Send the same body again with the Idempotency-Key of"
        " this answer: it names the same event, so nothing is delivered twice.",
        headers={"Retry-After": "1"},
        extensions={"event_id": event_id, "idempotency_key": retry_key},
    )
