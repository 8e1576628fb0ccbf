"""A flow: all that is known of one event on its way to one endpoint, and how its two sides are paired.

Hooktide says "attempt 2 started then and came to 500"; the witness says "a request came in, I answered 500".
Neither knows the other's number, so they are paired by time and status: an arrival belongs to the attempt
during which it came in, when the status agrees. Replays are deliveries of the same flow: the receiver cannot
tell them apart, and need not.

An arrival that no attempt claims is a stray, and its fate says what that means: cut off by an outage (legal,
counted), sent after the recorded end of its delivery, or unrecorded.
"""

from bisect import bisect_left
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct, field

from deploy.checker.history import (
    Arrival,
    AttemptRecord,
    DeadLetterRecord,
    DeliveryRecord,
    Run,
    TransitionRecord,
)
from deploy.checker.host_time import NS_PER_MS, HostTime
from deploy.checker.outages import Outages, is_excused
from schemas.delivery import DeliveryState

FINAL = frozenset({DeliveryState.DELIVERED, DeliveryState.DEAD_LETTERED, DeliveryState.CANCELLED})


class Fate(StrEnum):
    """Why no attempt claims an arrival."""

    CUT = "cut"
    AFTER_SUCCESS = "after_success"
    AFTER_FINAL = "after_final"
    UNRECORDED = "unrecorded"


class Pair(NamedTuple):
    """An attempt that was recorded, and what the witness saw of it; the last arrival is the one answered."""

    transition: TransitionRecord
    attempt: AttemptRecord
    arrivals: tuple[Arrival, ...]


class Stray(NamedTuple):
    """An arrival without an attempt; `outage` is the place of the one that cut it, or -1."""

    arrival: Arrival
    fate: Fate
    outage: int


class Flow(Struct):
    """One event to one endpoint.

    Attributes:
        arrivals: in order of time.
        transitions: in the order of the log.
        pairs: one for each transition with an attempt, in their order.
    """

    event_id: str
    endpoint_id: str
    arrivals: list[Arrival] = field(default_factory=list)
    transitions: list[TransitionRecord] = field(default_factory=list)
    deliveries: list[DeliveryRecord] = field(default_factory=list)
    dead_letters: list[DeadLetterRecord] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)

    @property
    def subject(self) -> str:
        """Whose violation it is."""
        return f"{self.event_id} -> {self.endpoint_id}"

    @property
    def is_replayed(self) -> bool:
        """Whether more than one delivery shares the flow."""
        first = self.transitions[0].delivery_id if self.transitions else ""
        return any(delivery.replay_id for delivery in self.deliveries) or any(
            transition.delivery_id != first for transition in self.transitions
        )


def pair_up(
    flow: Flow, run: Run, host_time: HostTime, outages: Outages, replayed_at_ns: dict[str, int]
) -> None:
    """Fills `pairs` and `strays` of a flow whose other lists are complete and in order.

    Args:
        replayed_at_ns: when each replay was asked for.
    """
    free = [True] * len(flow.arrivals)
    received = [arrival.received_at_ns for arrival in flow.arrivals]
    for transition in flow.transitions:
        attempt = transition.attempt
        if attempt is not None:
            claimed = _claim(attempt, flow.arrivals, received, free, run, host_time)
            flow.pairs.append(Pair(transition, attempt, claimed))
    if any(free):
        closings = _closings(flow, host_time, replayed_at_ns)
        for arrival, is_free in zip(flow.arrivals, free, strict=True):
            if is_free:
                flow.strays.append(_stray(arrival, closings, run, outages))


def _claim(
    attempt: AttemptRecord,
    arrivals: list[Arrival],
    received: list[int],
    free: list[bool],
    run: Run,
    host_time: HostTime,
) -> tuple[Arrival, ...]:
    """Takes the arrivals that came in during an attempt; at most as many as it sent requests."""
    tolerance_ns = run.clock_tolerance_ms * NS_PER_MS
    duration_ns = (attempt.finished_at_ms - attempt.started_at_ms) * NS_PER_MS
    # Without a status the witness may have read the request after we gave it up.
    lag_ns = tolerance_ns if attempt.status is not None else run.witness_lag_ms * NS_PER_MS
    for began_ns in host_time.moments_ns(attempt.started_at_ms):
        claimed: list[int] = []
        is_whole = False
        place = bisect_left(received, began_ns - tolerance_ns)
        until_ns = began_ns + duration_ns + lag_ns
        while place < len(received) and received[place] <= until_ns and len(claimed) < attempt.requests_sent:
            arrival = arrivals[place]
            if free[place] and _is_end(attempt, arrival, until_ns):
                claimed.append(place)
                is_whole = True
                if attempt.status is not None:
                    break
            elif free[place] and _is_earlier_request(attempt, arrival):
                claimed.append(place)
                is_whole |= arrival.status is not None  # a redirect: what follows may have gone elsewhere
            place += 1
        if is_whole:
            for place in claimed:
                free[place] = False
            return tuple(arrivals[place] for place in claimed)
    return ()


def _is_end(attempt: AttemptRecord, arrival: Arrival, until_ns: int) -> bool:
    """Whether an arrival may be the request that an attempt ended with."""
    if attempt.status is None:
        return True
    answered_ns = arrival.answered_at_ns
    return arrival.status == attempt.status and answered_ns is not None and answered_ns <= until_ns


def _is_earlier_request(attempt: AttemptRecord, arrival: Arrival) -> bool:
    """Whether an arrival may be an earlier request of the same attempt: re-sent, or redirected."""
    is_redirect = arrival.status is not None and 300 <= arrival.status <= 399
    return attempt.requests_sent > 1 and (arrival.status is None or is_redirect)


class _Closing(NamedTuple):
    """From when to when a delivery could be sent; `state` is that of its end."""

    opened_at_ns: int
    closed_at_ns: int | None
    state: str


def _closings(flow: Flow, host_time: HostTime, replayed_at_ns: dict[str, int]) -> list[_Closing]:
    opened = {d.delivery_id: replayed_at_ns.get(d.replay_id, 0) for d in flow.deliveries}
    ends: dict[str, _Closing] = {}
    seen_at_ns = {
        (pair.transition.partition, pair.transition.offset): pair.arrivals[-1].received_at_ns
        for pair in flow.pairs
        if pair.arrivals
    }
    for transition in flow.transitions:
        opened_at_ns = opened.get(transition.delivery_id, 0)
        known = ends.get(transition.delivery_id)
        if known is not None and known.closed_at_ns is not None:
            continue  # what follows a final state is another rule's
        closed_at_ns = None
        if transition.state in FINAL:
            closed_at_ns = seen_at_ns.get((transition.partition, transition.offset))
            if closed_at_ns is None and transition.at_ms:
                closed_at_ns = max(host_time.moments_ns(transition.at_ms), default=None)
        ends[transition.delivery_id] = _Closing(opened_at_ns, closed_at_ns, transition.state)
    for delivery_id, opened_at_ns in opened.items():
        ends.setdefault(delivery_id, _Closing(opened_at_ns, None, ""))
    return list(ends.values())


def _stray(arrival: Arrival, closings: list[_Closing], run: Run, outages: Outages) -> Stray:
    at_ns = arrival.received_at_ns
    tolerance_ns = run.clock_tolerance_ms * NS_PER_MS
    is_open = not closings or any(
        closing.opened_at_ns <= at_ns
        and (closing.closed_at_ns is None or at_ns <= closing.closed_at_ns + tolerance_ns)
        for closing in closings
    )
    if not is_open:
        is_success = any(closing.state == DeliveryState.DELIVERED for closing in closings)
        return Stray(arrival, Fate.AFTER_SUCCESS if is_success else Fate.AFTER_FINAL, -1)
    place = outages.cutting(at_ns)
    if place is None:
        return Stray(arrival, Fate.UNRECORDED, -1)
    # An outcome is written within moments of its answer; one that was not, long before the outage, was
    # forgotten, not cut.
    answered_ns = arrival.answered_at_ns
    ended_ns = answered_ns if answered_ns is not None else at_ns + run.timeout_ms * NS_PER_MS
    slack_ns = run.settle_slack_ms * NS_PER_MS
    began_at_ns = outages.all[place].began_at_ns
    if not is_excused(at_ns, ended_ns + slack_ns, slack_ns, began_at_ns, outages.excuse):
        return Stray(arrival, Fate.UNRECORDED, -1)
    return Stray(arrival, Fate.CUT, place)
