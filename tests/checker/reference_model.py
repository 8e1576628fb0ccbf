"""A reference model of a correct webhook sender, which makes histories for the checker to accept.

It shares no code with the engine: a heap of acts (`model_clockwork.py`), endpoints that answer as they like
(`model_sender.py`), and here the faults, the people and the plan of a run. It knows the contract only:
retries with jitter, a crash that forgets what was in flight, controls that take effect a little later,
unsure publishes that may or may not have happened. Everything is drawn from the seed.
"""

from functools import partial
from typing import Any

from deploy.checker import history as h
from tests.checker.model_clockwork import MS, START_MS, START_NS
from tests.checker.model_sender import TIMEOUT_MS, ModelDelivery, ModelEndpoint, Sender

PATTERNS = (("*",), ("order.*",), ("order.created", "user.gone"), ("user.*",))
SLOTS = 40


class World(Sender):
    """One run. `records()` is its history."""

    def __init__(self, seed: int, *, publishes: int | None = None, endpoints: int | None = None) -> None:
        super().__init__(seed)
        rng = self.rng
        self.stop_fault: h.Fault | None = None
        for place in range(endpoints or rng.randint(1, 3)):
            self._add_endpoint(place)
        self._plan(publishes or rng.randint(4, 20))
        self.run_all()

    # --- the plan

    def _add_endpoint(self, place: int) -> None:
        rng = self.rng
        tenant = f"t{rng.randint(0, 1)}"
        name = f"ep_{self.seed}_{place}"
        known = h.EndpointKnown(name, tenant, f"/{name}", rng.choice(PATTERNS), START_NS + (place + 1) * MS)
        failing = rng.choice((0.0, 0.2, 0.6))
        self.endpoints[name] = ModelEndpoint(known, place % 2, failing)
        self.out[h.EndpointKnown].append(known)

    def _plan(self, publishes: int) -> None:
        rng = self.rng
        horizon = 12_000 * MS
        for number in range(publishes):
            # Half of them in a burst, so that something is in flight when a fault comes.
            at_ms = 4_000 + rng.randrange(150) if rng.random() < 0.5 else 100 + rng.randrange(12_000)
            self.host(START_NS + at_ms * MS, self._publish, number)
        for _ in range(rng.randint(0, 3)):
            at_ms = 4_000 + rng.randrange(300) if rng.random() < 0.4 else 1_000 + rng.randrange(12_000)
            fault = rng.choice((self._kill, self._kill, self._stop, self._pause, self._step, self._poison))
            self.host(START_NS + at_ms * MS, fault)
        for _ in range(rng.randint(0, 3)):
            self.host(START_NS + 500 * MS + rng.randrange(horizon), self._control)
        if self.is_drained:
            if rng.random() < 0.7:
                self.host(START_NS + 20_000 * MS, self._open_all)
        else:
            self.host(START_NS + 3_000 * MS + rng.randrange(horizon), self._end)

    def _open_all(self) -> None:
        for endpoint in self.endpoints.values():
            for why, action in (("pause", h.Action.RESUME), ("disable", h.Action.ENABLE)):
                if why in endpoint.shut:
                    self._call(endpoint, action)

    # --- faults

    def _fault(self, kind: h.FaultKind, ended: int, recovered: int | None, **more: Any) -> None:  # noqa: ANN401 - the fields of `Fault`
        in_flight = sum(endpoint.in_flight for endpoint in self.endpoints.values())
        self.out[h.Fault].append(
            h.Fault(
                kind=kind,
                began_at_ns=self.now,
                ended_at_ns=ended,
                recovered_at_ns=recovered,
                in_flight=in_flight,
                **more,
            )
        )

    def _kill(self) -> None:
        if not self.is_quiet:
            return
        down = self.now + self.rng.randrange(700, 2_500) * MS
        held = sum(endpoint.in_flight for endpoint in self.endpoints.values())
        kind = self.rng.choice((h.FaultKind.KILL, h.FaultKind.KILL, h.FaultKind.POWER_CUT))
        self._fault(kind, self.now + 2 * MS, down, repeats_max=self.rng.choice((None, held)))
        self._die(down)

    def _die(self, down: int) -> None:
        self.epoch += 1
        self.down_until = down
        self.is_draining = False
        for delivery in self.deliveries.values():
            if delivery.is_in_flight:
                delivery.is_in_flight = False
                delivery.after_crash = True
                endpoint = self.endpoints[delivery.record.endpoint_id]
                endpoint.in_flight -= 1
                if delivery.is_cancelled:
                    self.durable(down, self._cancel, delivery, endpoint, delivery.is_cancelled)
                else:
                    endpoint.queue.insert(0, delivery)
        for endpoint in self.endpoints.values():
            self.durable(down, self._pump, endpoint)

    def _stop(self) -> None:
        if self.is_quiet:
            self.is_draining = True
            self._fault(h.FaultKind.STOP, 0, None)
            self.finish_stop()

    def finish_stop(self) -> None:
        if any(endpoint.in_flight for endpoint in self.endpoints.values()):
            return
        down = self.now + self.rng.randrange(700, 2_500) * MS
        fault = self.out[h.Fault].pop()
        recovered = None if self.is_drained is False and self.stop_fault is fault else down
        self.out[h.Fault].append(
            h.Fault(
                kind=h.FaultKind.STOP,
                began_at_ns=fault.began_at_ns,
                ended_at_ns=self.now,
                recovered_at_ns=recovered,
                in_flight=fault.in_flight,
            )
        )
        self._die(down)
        self.is_over = self.stop_fault is fault

    def _end(self) -> None:
        """A run that does not wait until nothing is pending."""
        if not self.is_quiet:
            self.host(self.now + 500 * MS, self._end)
            return
        self.is_draining = True
        self._fault(h.FaultKind.STOP, 0, None)
        self.stop_fault = self.out[h.Fault][-1]
        self.finish_stop()

    def _pause(self) -> None:
        if self.is_quiet:
            self.paused_until = self.now + self.rng.randrange(1_000, 8_000) * MS
            self._fault(h.FaultKind.PAUSE, self.paused_until, self.paused_until + 20 * MS)

    def _step(self) -> None:
        if self.is_quiet:
            self.offset_ms = self.rng.choice((-86_400_000, -3_600_000, 3_600_000, 86_400_000))
            self._fault(h.FaultKind.CLOCK_STEP, self.now, self.now + 100 * MS, clock_offset_ms=self.offset_ms)

    def _poison(self) -> None:
        if self.is_quiet:
            self._fault(h.FaultKind.POISON, self.now, self.now + MS, rejected_max=1)
            self.out[h.RejectedRecord].append(
                h.RejectedRecord("events", 0, len(self.out[h.RejectedRecord]), "unreadable")
            )

    # --- people

    def _control(self) -> None:
        if not self.is_quiet:
            return
        rng = self.rng
        endpoint = self.endpoints[rng.choice(list(self.endpoints))]
        waiting = [d for d in self.deliveries.values() if not d.is_final]
        draw = rng.random()
        if draw < 0.15:
            self._call(endpoint, h.Action.DELETE)
        elif draw < 0.5:
            shut, opened = rng.choice(
                ((h.Action.PAUSE, h.Action.RESUME), (h.Action.DISABLE, h.Action.ENABLE))
            )
            self._call(endpoint, shut)
            if rng.random() < 0.7:
                self.host(self.now + rng.randrange(500, 15_000) * MS, self._call, endpoint, opened)
        elif draw < 0.7 and waiting:
            delivery = rng.choice(waiting)
            action = rng.choice((h.Action.CANCEL, h.Action.RETRY_NOW))
            self._call(self.endpoints[delivery.record.endpoint_id], action, delivery)
        elif self.deliveries:
            delivery = rng.choice(list(self.deliveries.values()))
            self._call(self.endpoints[delivery.record.endpoint_id], h.Action.REPLAY, delivery)

    def _call(self, endpoint: ModelEndpoint, action: h.Action, delivery: ModelDelivery | None = None) -> None:
        rng = self.rng
        if endpoint.is_deleted:
            return
        ended = self.now + rng.randrange(1, 20) * MS
        result = h.Result.OK if rng.random() < 0.9 and self.is_quiet else h.Result.INFO
        replay_id = f"rpl_{len(self.out[h.Control])}" if action is h.Action.REPLAY else ""
        named = delivery.record.delivery_id if delivery is not None else ""
        self.out[h.Control].append(
            h.Control(self.now, ended, result, action, endpoint.known.endpoint_id, named, replay_id)
        )
        if result is h.Result.INFO and rng.random() < 0.5:
            return
        takes_effect = self.now + rng.randrange(1, 3_000) * MS
        if action is h.Action.DELETE:
            self.durable(takes_effect, self._delete, endpoint)
        elif action in (h.Action.PAUSE, h.Action.DISABLE):
            endpoint.effects.append(partial(endpoint.shut.add, action.value))
            self.durable(takes_effect, self._take_effect, endpoint)
        elif action in (h.Action.RESUME, h.Action.ENABLE):
            why = "pause" if action is h.Action.RESUME else "disable"
            endpoint.effects.append(partial(self._open, endpoint, why))
            self.durable(takes_effect, self._take_effect, endpoint)
        elif delivery is not None and action is h.Action.CANCEL:
            self.durable(takes_effect, self._cancel, delivery, endpoint, "cancelled_by_person")
        elif delivery is not None and action is h.Action.RETRY_NOW:
            self.durable(takes_effect, self._due, delivery, endpoint, delivery.count)
        elif delivery is not None:
            self.durable(takes_effect, self._add_delivery, delivery.record.event_id, endpoint, replay_id)

    def _take_effect(self, endpoint: ModelEndpoint) -> None:
        endpoint.effects.pop(0)()

    def _open(self, endpoint: ModelEndpoint, why: str) -> None:
        endpoint.shut.discard(why)
        self._pump(endpoint)

    def _delete(self, endpoint: ModelEndpoint) -> None:
        endpoint.is_deleted = True
        endpoint.queue.clear()
        for delivery in self.deliveries.values():
            if delivery.record.endpoint_id == endpoint.known.endpoint_id:
                self._cancel(delivery, endpoint, "endpoint_deleted")

    def _cancel(self, delivery: ModelDelivery, endpoint: ModelEndpoint, reason: str) -> None:
        if delivery.is_final:
            return
        if delivery.is_in_flight:
            delivery.is_cancelled = reason
            return
        if delivery in endpoint.queue:
            endpoint.queue.remove(delivery)
        self._change(delivery, endpoint, "cancelled", reason, None)

    # --- the history

    def records(self) -> list[h.Record]:
        """Returns the history with its run and its ends."""
        run = h.Run(
            seed=self.seed,
            scenario="model",
            repeat_command=f"check(make_history({self.seed}))",
            delays_ms=self.delays,
            window_ms=self.window_ms,
            slots=SLOTS,
            endpoint_in_flight_max=self.cap,
            started_at_ns=START_NS,
            started_at_ms=START_MS,
            is_drained=self.is_drained,
            late_slack_ms=5_000,
            timeout_ms=TIMEOUT_MS,
        )
        self.out[h.Arrival] = [h.Arrival(**arrival) for arrival in self.arrivals]
        self.out[h.StoreRow] = [
            h.StoreRow(
                name,
                delivery.record.endpoint_id,
                delivery.state,
                delivery.count,
                0,
                not delivery.is_final,
            )
            for name, delivery in self.deliveries.items()
        ]
        body = [record for records in self.out.values() for record in records]
        return close([run, *body], self.now + MS)


def close(records: list[h.Record], at_ns: int) -> list[h.Record]:
    """Returns the records with an end for every source, whose counts are true."""
    counts = dict.fromkeys(h.Source, 0)
    kept = [record for record in records if not isinstance(record, h.End)]
    for record in kept:
        source = h.SOURCE_OF.get(type(record))
        if source is not None:
            counts[source] += 1
    return [*kept, *(h.End(source, count, at_ns) for source, count in counts.items())]


def make_history(seed: int) -> list[h.Record]:
    """Returns the history of one seed."""
    return World(seed).records()
