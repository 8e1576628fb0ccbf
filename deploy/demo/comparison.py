"""The comparison: what the API says of every delivery against what the receiver counted for itself, pure.

Both sides were there when it happened and neither saw the other's books, so a difference is an error of one
of them. What is compared, per event and endpoint: how many requests, with which answers, how it ended; that
every copy was signed and had the same bytes; and that these bytes hold the data that was published.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from deploy.client.answers import DeliveryRow
from deploy.receiver.arrival import Arrival


class Told(Struct, frozen=True):
    """One delivery as the API tells it; `data` is what was published."""

    part: str
    event_id: str
    data: bytes
    delivery: DeliveryRow


class Tally(Struct):
    """The two sides' counts of one endpoint."""

    events: int = 0
    delivered: int = 0
    dead_lettered: int = 0
    requests_told: int = 0
    requests_received: int = 0
    accepted_received: int = 0


def compare(
    told: Sequence[Told], received: Mapping[tuple[str, str], Sequence[Arrival]]
) -> tuple[dict[str, Tally], list[str]]:
    """Returns the counts of each endpoint, and a sentence for each difference."""
    tallies: dict[str, Tally] = {}
    differences: list[str] = []
    for one in told:
        arrivals = received.get((one.part, one.event_id), ())
        tally = tallies.setdefault(one.part, Tally())
        tally.events += 1
        tally.delivered += one.delivery.state == "delivered"
        tally.dead_lettered += one.delivery.state == "dead_lettered"
        tally.requests_told += sum(attempt.requests_sent for attempt in one.delivery.attempts)
        tally.requests_received += len(arrivals)
        tally.accepted_received += any(arrival.status == 200 for arrival in arrivals)
        differences += [f"{one.part}, {one.event_id}: {what}" for what in _differences(one, arrivals)]
    known = {(one.part, one.event_id) for one in told}
    differences += [
        f"{part}, {event_id}: {len(arrivals)} requests received that the API knows nothing of"
        for (part, event_id), arrivals in received.items()
        if (part, event_id) not in known
    ]
    return tallies, differences


def _differences(told: Told, arrivals: Sequence[Arrival]) -> Iterator[str]:
    delivery = told.delivery
    attempts = delivery.attempts
    answers = [attempt.status for attempt in attempts if attempt.status is not None]
    statuses = [arrival.status for arrival in arrivals]
    if not delivery.is_final:
        yield f"the API says {delivery.state}, which is no end"
    if delivery.attempt_count != len(attempts):
        yield f"the API counts {delivery.attempt_count} attempts and shows {len(attempts)}"
    requests = sum(attempt.requests_sent for attempt in attempts)
    if requests == len(attempts) and answers != statuses:
        yield f"the API says the answers were {answers}, the receiver answered {statuses}"
    elif not len(answers) <= len(statuses) <= requests:
        yield f"the API says {requests} requests, the receiver had {len(statuses)}"
    if (delivery.state == "delivered") != (200 in statuses):
        yield f"the API says {delivery.state}, the receiver answered {statuses}"
    if statuses.count(200) > 1:
        yield f"it was accepted {statuses.count(200)} times"
    unsigned = {arrival.verdict for arrival in arrivals} - {"ok"}
    if unsigned:
        yield f"a signature was judged {', '.join(sorted(unsigned))}"
    bodies = {arrival.body for arrival in arrivals}
    if len(bodies) > 1:
        yield f"its copies have {len(bodies)} different bodies"
    if any(_data_of(body) != json.loads(told.data) for body in bodies):
        yield "the body holds other data than was published"


def _data_of(body: bytes) -> Any:  # noqa: ANN401 - JSON is what it is
    try:
        return json.loads(body)["data"]
    except (ValueError, KeyError, TypeError):
        return None
