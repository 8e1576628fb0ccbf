"""What the planted mutations share: a good history taken apart, and put together again after the damage."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, NoReturn

from msgspec.structs import replace

from deploy.checker import history as h
from tests.checker.model_clockwork import MS
from tests.checker.reference_model import close


class DoesNotApplyError(Exception):
    """This history has no place for the mutation; another one has to be taken."""


class Parts:
    """A history by type and by flow. Lists may be changed; `records` puts it together."""

    def __init__(self, records: Iterable[h.Record], rng: Random) -> None:
        self.rng = rng
        self.of: dict[type, list[Any]] = defaultdict(list)
        for record in records:
            self.of[type(record)].append(record)
        self.run: h.Run = self.of[h.Run][0]
        self.ended_at_ns = max(end.at_ns for end in self.of[h.End])
        self.paths: dict[str, h.EndpointKnown] = {e.path: e for e in self.of[h.EndpointKnown]}
        self.endpoints: dict[str, h.EndpointKnown] = {e.endpoint_id: e for e in self.of[h.EndpointKnown]}
        self.arrivals: dict[tuple[str, str], list[h.Arrival]] = defaultdict(list)
        for arrival in sorted(self.of[h.Arrival], key=lambda a: a.received_at_ns):
            self.arrivals[arrival.webhook_id, self.paths[arrival.path].endpoint_id].append(arrival)
        self.transitions: dict[str, list[h.TransitionRecord]] = defaultdict(list)
        for transition in self.of[h.TransitionRecord]:
            self.transitions[transition.delivery_id].append(transition)
        per_flow: dict[tuple[str, str], int] = defaultdict(int)
        for delivery in self.of[h.DeliveryRecord]:
            per_flow[delivery.event_id, delivery.endpoint_id] += 1
        self.single = [d for d in self.of[h.DeliveryRecord] if per_flow[d.event_id, d.endpoint_id] == 1]

    def records(self) -> list[h.Record]:
        body = [record for kind, records in self.of.items() if kind is not h.End for record in records]
        return close(body, self.ended_at_ns)

    # --- choosing

    def choose(self, records: Iterable[Any]) -> Any:  # noqa: ANN401 - the element of any list
        found = list(records)
        if not found:
            does_not_apply()
        return self.rng.choice(found)

    def seen(self, delivery: h.DeliveryRecord) -> list[h.Arrival]:
        """The arrivals of a delivery's flow."""
        return self.arrivals[delivery.event_id, delivery.endpoint_id]

    def calls_for(self, endpoint_id: str) -> list[h.Control]:
        return [c for c in self.of[h.Control] if c.endpoint_id == endpoint_id]

    def is_plain(self, delivery: h.DeliveryRecord) -> bool:
        """A single delivery of an accepted event, to an endpoint that nobody touched, in a drained run."""
        accepted = {p.event_id for p in self.of[h.Publish] if p.result is h.Result.OK}
        is_touched = bool(self.calls_for(delivery.endpoint_id))
        return self.run.is_drained and delivery.event_id in accepted and not is_touched

    def ended(self, *states: str, attempts: int = 1, arrivals: int = 1) -> list[h.DeliveryRecord]:
        """The single deliveries in one of the states, with at least so many attempts and arrivals."""
        return [
            d
            for d in self.single
            if len(t := self.transitions[d.delivery_id]) >= attempts
            and (not states or t[-1].state in states)
            and len(self.seen(d)) >= arrivals
        ]

    def needs_no_fault(self) -> None:
        if self.of[h.Fault]:
            does_not_apply()

    # --- changing

    def drop(self, *records: h.Record) -> None:
        for record in records:
            known = self.of[type(record)]
            known[:] = [other for other in known if other is not record]

    def put(self, old: h.Record, **changes: Any) -> Any:  # noqa: ANN401 - the fields of any record
        """Replaces a record by a changed copy."""
        known = self.of[type(old)]
        for place, other in enumerate(known):
            if other is old:
                known[place] = replace(old, **changes)
                return known[place]
        raise AssertionError(old)

    def row_of(self, transition: h.TransitionRecord) -> h.LogRow:
        stamp = (transition.partition, transition.epoch, transition.sequence)
        rows: list[h.LogRow] = self.of[h.LogRow]
        return next(row for row in rows if (row.partition, row.epoch, row.sequence) == stamp)

    def drop_transition(self, transition: h.TransitionRecord) -> None:
        """Drops a transition and its row of the delivery log."""
        if transition.attempt is not None:
            self.drop(self.row_of(transition))
        self.drop(transition)

    def put_attempt(self, transition: h.TransitionRecord, **changes: Any) -> None:  # noqa: ANN401 - as `put`
        """Changes an attempt in the topic and in the delivery log alike: both tell the same lie."""
        row = self.row_of(transition)
        assert transition.attempt is not None, transition
        attempt = replace(transition.attempt, **changes)
        self.put(transition, attempt=attempt)
        self.put(
            row,
            number=attempt.number,
            started_at_ms=attempt.started_at_ms,
            status=attempt.status,
            after_crash=attempt.after_crash,
        )

    def append_transition(self, like: h.TransitionRecord, **changes: Any) -> h.TransitionRecord:  # noqa: ANN401
        """Adds a transition at the end of its partition, with a stamp that rises, and its row of the log."""
        last = [t for t in self.of[h.TransitionRecord] if t.partition == like.partition][-1]
        last_letters = [d.sequence for d in self.of[h.DeadLetterRecord] if d.partition == like.partition]
        sequence = max([last.sequence, *last_letters]) + 1
        added = replace(like, offset=last.offset + 1, epoch=last.epoch, sequence=sequence, **changes)
        self.of[h.TransitionRecord].append(added)
        if added.attempt is not None:
            self.of[h.LogRow].append(
                h.LogRow(
                    added.partition,
                    added.epoch,
                    added.sequence,
                    added.delivery_id,
                    added.event_id,
                    added.endpoint_id,
                    added.attempt.number,
                    added.attempt.started_at_ms,
                    added.attempt.status,
                    added.attempt.after_crash,
                )
            )
        return added

    def repeat(self, arrival: h.Arrival, at_ns: int, **changes: Any) -> h.Arrival:  # noqa: ANN401 - as `put`
        """Adds a copy of an arrival at another time."""
        moved = shifted(arrival, at_ns - arrival.received_at_ns, **changes)
        self.of[h.Arrival].append(moved)
        self.ended_at_ns = max(self.ended_at_ns, at_ns + 10_000 * MS)
        return moved

    def shift_try(self, transition: h.TransitionRecord, arrival: h.Arrival | None, by_ms: int) -> None:
        """Moves an attempt and what the witness saw of it in time."""
        attempt = transition.attempt
        assert attempt is not None, transition
        self.put_attempt(
            transition,
            started_at_ms=attempt.started_at_ms + by_ms,
            finished_at_ms=attempt.finished_at_ms + by_ms,
        )
        if arrival is not None:
            moved = shifted(arrival, by_ms * MS)
            self.drop(arrival)
            self.of[h.Arrival].append(moved)
            self.ended_at_ns = max(self.ended_at_ns, moved.received_at_ns + 10_000 * MS)


Mutation = Callable[[Parts], None]


def does_not_apply() -> NoReturn:
    raise DoesNotApplyError


def shifted(arrival: h.Arrival, by_ns: int, **changes: Any) -> h.Arrival:  # noqa: ANN401 - as `Parts.put`
    moved = {
        "received_at_ns": arrival.received_at_ns + by_ns,
        "answered_at_ns": None if arrival.answered_at_ns is None else arrival.answered_at_ns + by_ns,
        "wall_at_ms": arrival.wall_at_ms + by_ns // MS,
        "webhook_timestamp_s": arrival.webhook_timestamp_s + by_ns // (1_000 * MS),
    }
    return replace(arrival, **{**moved, **changes})


def mutate(records: list[h.Record], mutation: Mutation, seed: int) -> list[h.Record]:
    """Returns the broken history.

    Raises:
        DoesNotApplyError: this history has no place for the mutation.
    """
    parts = Parts(records, Random(seed))
    mutation(parts)
    return parts.records()
