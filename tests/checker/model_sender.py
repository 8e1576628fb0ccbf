"""The sending half of the reference model: publishes, fan-out, attempts, retries, and what is recorded."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from msgspec.structs import replace

from deploy.checker import history as h
from schemas.ids import delivery_id, event_id_from_key
from tests.checker.model_clockwork import MS, START_MS, START_NS, Clockwork

TIMEOUT_MS = 1_000
LONG_WINDOW_MS = 10_000_000  # no run lasts so long
TYPES = ("order.created", "order.paid", "user.gone")


class ModelDelivery:
    def __init__(self, record: h.DeliveryRecord, fanned_out_ns: int) -> None:
        self.record = record
        self.fanned_out_ns = fanned_out_ns
        self.state = "pending"
        self.count = 0
        self.due_ns = 0
        self.is_ready = True
        self.is_in_flight = False
        self.is_cancelled = ""
        self.after_crash = False

    @property
    def is_final(self) -> bool:
        return self.state in ("delivered", "dead_lettered", "cancelled")


class ModelEndpoint:
    def __init__(self, known: h.EndpointKnown, partition: int, failing: float) -> None:
        self.known = known
        self.partition = partition
        self.failing = failing
        self.queue: list[ModelDelivery] = []
        self.in_flight = 0
        self.shut: set[str] = set()
        self.is_deleted = False
        self.not_before_ns = 0
        self.effects: list[Callable[[], None]] = []  # of control calls, in the order of the calls


class Sender(Clockwork):
    """Takes publishes, sends, retries, writes down."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        rng = self.rng
        self.is_drained = rng.random() < 0.8
        self.delays = rng.choice(((200, 1_000, 4_000), (500,), (100, 300, 900, 2_700)))
        self.window_ms = 3_000 if rng.random() < 0.1 else LONG_WINDOW_MS
        self.cap = rng.choice((1, 2, 4))
        self.sequence = [0, 0]
        self.offset = [0, 0]
        self.delivery_offset = [0, 0]
        self.letter_offset = [0, 0]
        self.out: dict[type, list[Any]] = {kind: [] for kind in h.SOURCE_OF}
        self.arrivals: list[dict[str, Any]] = []
        self.deliveries: dict[str, ModelDelivery] = {}
        self.endpoints: dict[str, ModelEndpoint] = {}

    def finish_stop(self) -> None:
        """What happens when nothing is in flight any more in a process that stops."""
        raise NotImplementedError

    # --- publishing

    def _publish(self, number: int) -> None:
        rng = self.rng
        tenant = f"t{rng.randint(0, 1)}"
        key = f"k{self.seed}-{number}" if rng.random() < 0.8 else ""
        event_type = rng.choice(TYPES)
        event_id = event_id_from_key(tenant, key) if key else f"evt_{self.seed}x{number}"
        result = h.Result.OK
        happens = True
        draw = rng.random()
        if self.now < max(self.down_until, self.paused_until) or self.is_draining:
            result, happens = h.Result.INFO, False
        elif draw < 0.1:
            result, happens = h.Result.INFO, rng.random() < 0.5
        elif draw < 0.15:
            result, happens = h.Result.FAIL, False
        ended = self.now + rng.randrange(1, 30) * MS
        named = event_id if result is h.Result.OK else ""
        digest = sha256(f"data {number}".encode()).hexdigest()
        record = h.Publish(self.now, ended, result, tenant, key, event_type, named, digest)
        self.out[h.Publish].append(record)
        if happens:
            self.durable(self.now + rng.randrange(1, 60) * MS, self._fan_out, event_id, tenant, event_type)
        if result is h.Result.INFO and key and rng.random() < 0.7:
            self.host(ended + 3_000 * MS, self._publish_again, record, event_id, happens)

    def _publish_again(self, first: h.Publish, event_id: str, happened: bool) -> None:  # noqa: FBT001
        if self.now < max(self.down_until, self.paused_until) or self.is_draining:
            return
        again = h.Publish(
            self.now,
            self.now + 5 * MS,
            h.Result.OK,
            first.tenant_id,
            first.key,
            first.event_type,
            event_id,
            first.data_sha256,
        )
        self.out[h.Publish].append(again)
        at_ns = self.now + 9 * MS
        if happened:
            self.durable(at_ns, self._fan_out_again, event_id)
        else:
            self.durable(at_ns, self._fan_out, event_id, first.tenant_id, first.event_type)

    def _fan_out_again(self, event_id: str) -> None:
        """The second record of one event makes second records, with a later time in the body; all dropped."""
        for delivery in list(self.deliveries.values()):
            record = delivery.record
            if record.event_id == event_id and not record.replay_id:
                self.delivery_offset[record.partition] += 1
                offset = self.delivery_offset[record.partition]
                body = sha256(f"{event_id} again".encode()).hexdigest()
                self.out[h.DeliveryRecord].append(replace(record, offset=offset, body_sha256=body))

    def _fan_out(self, event_id: str, tenant: str, event_type: str) -> None:
        for endpoint in self.endpoints.values():
            known = endpoint.known
            prefixes = [pattern.removesuffix("*") for pattern in known.patterns if pattern.endswith("*")]
            is_match = event_type in known.patterns or any(event_type.startswith(p) for p in prefixes)
            if known.tenant_id == tenant and is_match and not endpoint.is_deleted:
                self._add_delivery(event_id, endpoint, "")

    def _add_delivery(self, event_id: str, endpoint: ModelEndpoint, replay_id: str) -> None:
        known, partition = endpoint.known, endpoint.partition
        name = delivery_id(event_id, known.endpoint_id, replay_id)
        if name in self.deliveries or endpoint.is_deleted:
            return
        self.delivery_offset[partition] += 1
        body = sha256(event_id.encode()).hexdigest()
        record = h.DeliveryRecord(
            partition,
            self.delivery_offset[partition],
            name,
            event_id,
            known.endpoint_id,
            known.tenant_id,
            body,
            replay_id,
        )
        self.out[h.DeliveryRecord].append(record)
        delivery = self.deliveries[name] = ModelDelivery(record, self.now)
        endpoint.queue.append(delivery)
        if self.window_ms < LONG_WINDOW_MS:
            self.durable(self.now + self.window_ms * MS, self._expire, delivery, endpoint)
        self._pump(endpoint)

    def _expire(self, delivery: ModelDelivery, endpoint: ModelEndpoint) -> None:
        is_held = delivery in endpoint.queue and bool(endpoint.shut)
        if is_held and not delivery.is_final:
            endpoint.queue.remove(delivery)
            self._dead_letter(delivery, endpoint, "expired_while_held", None)

    # --- sending

    def _pump(self, endpoint: ModelEndpoint) -> None:
        while endpoint.queue and endpoint.in_flight < self.cap and not endpoint.shut:
            if self.now < max(self.down_until, self.paused_until) or self.is_draining:
                return
            if self.now < endpoint.not_before_ns:
                self.durable(endpoint.not_before_ns, self._pump, endpoint)
                return
            delivery = endpoint.queue.pop(0)
            if not delivery.is_final:
                self._send(delivery, endpoint)

    def _send(self, delivery: ModelDelivery, endpoint: ModelEndpoint) -> None:
        rng = self.rng
        delivery.is_in_flight = True
        endpoint.in_flight += 1
        status: int | None = 200
        retry_after = 0
        draw = rng.random()
        if draw < endpoint.failing:
            status = rng.choice((500, 500, 502, 429, 503, 400, None, None))
            retry_after = 2_000 if status in (429, 503) and rng.random() < 0.5 else 0
            if rng.random() < 0.01:
                status = 410
        is_refused = status is None and rng.random() < 0.3
        is_sent_twice = status is not None and rng.random() < 0.02
        started_ms = self.wall_ms(self.now)
        arrives = self.now + rng.randrange(200_000, 3 * MS)
        latency = rng.choice((5, 20, 60, 200)) * MS if status is not None else TIMEOUT_MS * MS
        try_ = {
            "started_ns": self.now,
            "started_ms": started_ms,
            "requests_sent": 0 if is_refused else 1 + is_sent_twice,
            "status": status,
        }
        if is_sent_twice:  # the kept connection died under the first one
            self.host(self.now + 100_000, self._arrive, try_, delivery, endpoint, None, 0, 0, self.epoch)
        if is_refused:
            latency = 2 * MS
        else:
            self.host(
                arrives, self._arrive, try_, delivery, endpoint, status, latency, retry_after, self.epoch
            )
        ends = arrives + latency + rng.randrange(100_000, 5 * MS)
        self.process(ends, self._settle, try_, delivery, endpoint, status, retry_after, is_refused)

    def _arrive(
        self,
        try_: dict[str, Any],
        delivery: ModelDelivery,
        endpoint: ModelEndpoint,
        status: int | None,
        latency: int,
        retry_after: int,
        epoch: int,
    ) -> None:
        if epoch != self.epoch and self.rng.random() < 0.3:
            return  # died before the bytes left
        arrival = {
            "received_at_ns": self.now,
            "answered_at_ns": None,
            "path": endpoint.known.path,
            "webhook_id": delivery.record.event_id,
            "webhook_timestamp_s": try_["started_ms"] // 1_000,
            "wall_at_ms": START_MS + (self.now - START_NS) // MS,
            "body_sha256": delivery.record.body_sha256,
            "verdict": "ok",
            "status": None,
            "is_answer_written": False,
            "retry_after_ms": 0,
        }
        self.arrivals.append(arrival)
        if status is not None:
            self.host(self.now + latency, self._answer, arrival, status, retry_after, epoch)

    def _answer(self, arrival: dict[str, Any], status: int, retry_after: int, epoch: int) -> None:
        if epoch != self.epoch and self.rng.random() < 0.7:
            return  # nobody there any more
        arrival.update(
            answered_at_ns=self.now, status=status, is_answer_written=True, retry_after_ms=retry_after
        )

    def _settle(
        self,
        try_: dict[str, Any],
        delivery: ModelDelivery,
        endpoint: ModelEndpoint,
        status: int | None,
        retry_after: int,
        is_refused: bool,  # noqa: FBT001
    ) -> None:
        delivery.is_in_flight = False
        endpoint.in_flight -= 1
        delivery.count += 1
        finished = try_["started_ms"] + (self.now - try_["started_ns"]) // MS
        attempt = h.AttemptRecord(
            delivery.count,
            try_["started_ms"],
            finished,
            status,
            "" if status is not None else ("refused" if is_refused else "timeout"),
            delivery.after_crash,
            try_["requests_sent"],
        )
        delivery.after_crash = False
        if status is not None and status // 100 == 2:
            self._change(delivery, endpoint, "delivered", "delivered", attempt)
        elif delivery.is_cancelled:
            self._change(delivery, endpoint, "cancelled", delivery.is_cancelled, attempt)
        elif status in (400, 410):
            reason = "permanent_status" if status == 400 else "endpoint_gone"
            if status == 410:
                endpoint.shut.add("disable")
            self._dead_letter(delivery, endpoint, reason, attempt)
        else:
            self._retry(delivery, endpoint, attempt, retry_after)
        if self.is_draining:
            self.finish_stop()
        self._pump(endpoint)

    def _retry(
        self, delivery: ModelDelivery, endpoint: ModelEndpoint, attempt: h.AttemptRecord, retry_after: int
    ) -> None:
        closes = delivery.fanned_out_ns + self.window_ms * MS
        if delivery.count > len(self.delays) or self.now >= closes:
            self._dead_letter(delivery, endpoint, "retries_exhausted", attempt)
            return
        wait = int(self.delays[delivery.count - 1] * (1 + 0.25 * self.rng.random()))
        if retry_after:
            wait = max(wait, retry_after)
            endpoint.not_before_ns = max(endpoint.not_before_ns, self.now + retry_after * MS)
        delivery.due_ns = min(self.now + wait * MS, closes)
        self._change(delivery, endpoint, "retrying", "attempt_failed", attempt)
        self.durable(delivery.due_ns, self._due, delivery, endpoint, delivery.count)

    def _due(self, delivery: ModelDelivery, endpoint: ModelEndpoint, count: int) -> None:
        if (
            delivery.is_final
            or delivery.count != count
            or delivery.is_in_flight
            or delivery in endpoint.queue
        ):
            return
        closes = delivery.fanned_out_ns + self.window_ms * MS
        if endpoint.shut and self.now >= closes:
            self._dead_letter(delivery, endpoint, "expired_while_held", None)
            return
        endpoint.queue.append(delivery)
        self._pump(endpoint)

    # --- what is written down

    def _change(
        self,
        delivery: ModelDelivery,
        endpoint: ModelEndpoint,
        state: str,
        reason: str,
        attempt: h.AttemptRecord | None,
    ) -> None:
        assert not delivery.is_final, delivery.record
        delivery.state = state
        partition, record = endpoint.partition, delivery.record
        self.sequence[partition] += self.rng.choice((1, 1, 2))
        self.offset[partition] += 1
        at_ms = self.wall_ms(self.now)
        self.out[h.TransitionRecord].append(
            h.TransitionRecord(
                partition,
                self.offset[partition],
                record.delivery_id,
                record.event_id,
                record.endpoint_id,
                self.epoch,
                self.sequence[partition],
                state,
                reason,
                delivery.count,
                delivery.count,
                self.wall_ms(delivery.due_ns) if state == "retrying" else 0,
                attempt,
                at_ms,
            )
        )
        if attempt is not None:
            self.out[h.LogRow].append(
                h.LogRow(
                    partition,
                    self.epoch,
                    self.sequence[partition],
                    record.delivery_id,
                    record.event_id,
                    record.endpoint_id,
                    attempt.number,
                    attempt.started_at_ms,
                    attempt.status,
                    attempt.after_crash,
                )
            )

    def _dead_letter(
        self, delivery: ModelDelivery, endpoint: ModelEndpoint, reason: str, attempt: h.AttemptRecord | None
    ) -> None:
        self._change(delivery, endpoint, "dead_lettered", reason, attempt)
        partition, record = endpoint.partition, delivery.record
        self.sequence[partition] += 1
        self.letter_offset[partition] += 1
        self.out[h.DeadLetterRecord].append(
            h.DeadLetterRecord(
                partition,
                self.letter_offset[partition],
                record.delivery_id,
                record.delivery_id,
                record.event_id,
                record.endpoint_id,
                reason,
                delivery.count,
                self.epoch,
                self.sequence[partition],
            )
        )
