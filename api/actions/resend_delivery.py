"""A resend: one event to one endpoint once more, as a new delivery with the same `webhook-id` and bytes.

It is a replay of one delivery. The body is rendered again from the accepted bytes in the events table, by the
same pure function; nothing is read from what was sent. The new delivery's id is derived from the event, the
endpoint and a replay id, and the replay id from the tenant, an idempotency key and the delivery that is sent
again. Without a key from the caller one is drawn, so that an answer which is not sure can name the key that
repeats exactly this resend.

`recorded_at_ms` is the time of the request and not the event's: a shard refuses what is more than seven days
old because it may have forgotten that it sent it, and this one nobody has sent. By its own id it is
deduplicated like any other, for as long as the shard remembers; a key that is older than this is found in the
delivery log.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from api.actions.read_history import ReadHistory
from api.endpoint_view import EndpointView
from api.log_writes import LogWrites
from api.problems import ProblemError
from dataflows.connectors.log.port import Entry, TopicPartition
from operators.body_format import API_VERSIONS, render
from schemas.delivery import Delivery, DeliveryState, EventPosition
from schemas.delivery_view import DeliveryView, EventView
from schemas.endpoint import EndpointStatus
from schemas.errors import LogUnavailable
from schemas.ids import base32_128, content_digest, delivery_id, partition_of, time_ordered_id
from schemas.problem_codes import ProblemCode
from schemas.rest.delivery import ActionAnswer, DeliveryAction
from schemas.topics import DELIVERIES
from schemas.wire.records import DELIVERY

REPLAY_PREFIX: Final = "rpl_"
_KEY_PREFIX: Final = "resend-"
_ID_ENTROPY_BYTES: Final = 10
# The first delivery's version is not in the delivery log. As long as there is one only, it is that one; a
# second one fails here, and then the log needs a column.
(_API_VERSION,) = API_VERSIONS


class ResendDeliveries:
    """The use case, with what it needs.

    Args:
        matched_at: the position of `endpoints` that the view has reached.
        shards: partitions of `deliveries`.
    """

    def __init__(
        self,
        history: ReadHistory,
        view: EndpointView,
        writes: LogWrites,
        *,
        matched_at: Callable[[], int],
        shards: int,
        clock_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._history = history
        self._view = view
        self._writes = writes
        self._matched_at = matched_at
        self._shards = shards
        self._clock_ms = clock_ms
        self._entropy = entropy

    async def resend(self, ended: DeliveryView, key: str | None) -> ActionAnswer:
        """Makes the new delivery durable.

        Args:
            ended: a delivery in a final state.
            key: the caller's idempotency key.

        Raises:
            ProblemError: `not_found` (the endpoint is deleted), `wrong_state` (it is disabled, or the event
                is not kept any more), `not_ready`, `log_unavailable` with the key to try again with.
        """
        self._check_endpoint(ended)
        event = await self._history.kept_event(ended)
        now_ms = self._clock_ms()
        used = key or time_ordered_id(_KEY_PREFIX, now_ms, self._entropy(_ID_ENTROPY_BYTES))
        replay_id = replay_id_of(ended.tenant_id, used, ended.id)
        new_id = delivery_id(ended.event_id, ended.endpoint_id, replay_id)
        answer = ActionAnswer(id=new_id, action=DeliveryAction.RESEND, resend_of=ended.id)
        if key is not None and await self._history.is_recorded(ended.tenant_id, new_id):
            return answer
        delivery = self._delivery(ended, event, new_id, replay_id, now_ms)
        to = TopicPartition(DELIVERIES.name, partition_of(ended.endpoint_id, self._shards))
        try:
            appended = await self._writes.append(to, [Entry(new_id.encode(), DELIVERY.encode(delivery))])
        except LogUnavailable as error:
            raise _unsure(used) from error
        self._history.remember(_pending_view(delivery, to.partition, appended.timestamp_ms))
        return answer

    def _check_endpoint(self, ended: DeliveryView) -> None:
        endpoint = self._view.get(ended.endpoint_id)
        if endpoint is None:
            raise ProblemError(
                ProblemCode.NOT_FOUND,
                f"Its endpoint {ended.endpoint_id} is deleted; there is nobody to send to.",
            )
        if endpoint.status is EndpointStatus.DISABLED:
            raise ProblemError(
                ProblemCode.WRONG_STATE, f"Its endpoint {endpoint.id} is disabled; enable it first."
            )

    def _delivery(
        self, ended: DeliveryView, event: EventView, new_id: str, replay_id: str, now_ms: int
    ) -> Delivery:
        return Delivery(
            id=new_id,
            event_id=ended.event_id,
            endpoint_id=ended.endpoint_id,
            tenant_id=ended.tenant_id,
            event_type=event.type,
            replay_id=replay_id,
            body=render(event.id, event.type, event.occurred_at_ms, _API_VERSION, event.data),
            digest=content_digest(event.type, event.data),
            recorded_at_ms=now_ms,
            event_position=EventPosition(event.partition, event.offset),
            matched_at=self._matched_at(),
        )


def replay_id_of(tenant_id: str, key: str, of_delivery: str) -> str:
    """Returns the replay that a tenant's key names for a delivery; the same one for ever."""
    parts = [part.encode() for part in ("resend", tenant_id, key, of_delivery)]
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return REPLAY_PREFIX + base32_128(blake2b(framed, digest_size=16).digest())


def _pending_view(delivery: Delivery, shard: int, created_at_ms: int) -> DeliveryView:
    return DeliveryView(
        id=delivery.id,
        tenant_id=delivery.tenant_id,
        event_id=delivery.event_id,
        endpoint_id=delivery.endpoint_id,
        event_type=delivery.event_type,
        replay_id=delivery.replay_id,
        shard=shard,
        state=DeliveryState.PENDING.value,
        reason="",
        actor="",
        attempt_count=0,
        next_attempt_at_ms=None,
        created_at_ms=created_at_ms,
        updated_at_ms=created_at_ms,
    )


def _unsure(key: str) -> ProblemError:
    return ProblemError(
        ProblemCode.LOG_UNAVAILABLE,
        "It is not known whether the delivery was made. Send the same request again with the Idempotency-Key"
        " of this answer: it names the same delivery, so nothing is sent twice.",
        headers={"Retry-After": "1"},
        extensions={"idempotency_key": key},
    )
