"""Nothing is sent again after its 2xx was recorded; a crash repeats at most what was in flight.

The crash window: the witness answered 2xx, and the process died before it wrote that down. Then the repeat is
legal, and it counts for the outage that cut the first one.
"""

from collections import defaultdict
from collections.abc import Iterator

from deploy.checker.flow import Fate, Flow, Stray
from deploy.checker.history import Arrival, Record
from deploy.checker.index import Index
from deploy.checker.violation import Violation, ViolationClass
from schemas.delivery import DeliveryState


def duplicate_after_success(index: Index) -> Iterator[Violation]:
    """Yields what was sent after a recorded 2xx, without a replay that asked for it."""
    for flow in index.flows.values():
        for stray in flow.strays:
            if stray.fate is Fate.AFTER_SUCCESS:
                detail = "sent again after its 2xx was recorded, and recorded nowhere"
                yield Violation(
                    ViolationClass.DUPLICATE_AFTER_SUCCESS,
                    flow.subject,
                    detail,
                    _success(flow, stray.arrival),
                )
        delivered: set[str] = set()
        for pair in flow.pairs:
            delivery_id = pair.transition.delivery_id
            if delivery_id in delivered and pair.arrivals:
                detail = f"attempt {pair.attempt.number} was sent after the 2xx of {delivery_id} was recorded"
                yield Violation(
                    ViolationClass.DUPLICATE_AFTER_SUCCESS,
                    flow.subject,
                    detail,
                    (*_success(flow, pair.arrivals[-1]), pair.transition),
                )
            if pair.transition.state == DeliveryState.DELIVERED:
                delivered.add(delivery_id)


def repeats_by_outage(index: Index) -> dict[int, list[tuple[Flow, Stray]]]:
    """Returns, by the place of the outage, the deliveries whose cut request was sent again afterwards.

    One each, with the last request: a try that was re-sent on a new connection was one delivery in flight.
    """
    repeats: dict[int, list[tuple[Flow, Stray]]] = defaultdict(list)
    for flow in index.flows.values():
        last_cut = {stray.outage: stray for stray in flow.strays if stray.fate is Fate.CUT}
        for place, stray in last_cut.items():
            if flow.arrivals[-1].received_at_ns > stray.arrival.received_at_ns:
                repeats[place].append((flow, stray))
    return repeats


def too_many_repeats(index: Index) -> Iterator[Violation]:
    """Yields the outages that repeated more than they may."""
    for place, repeats in sorted(repeats_by_outage(index).items()):
        outage = index.outages.all[place]
        if len(repeats) <= outage.repeats_max:
            continue
        kinds = " + ".join(f"{fault.kind} {fault.point}".strip() for fault in outage.faults)
        detail = f"{len(repeats)} deliveries were sent again, and at most {outage.repeats_max} may be"
        shown = [arrival for flow, _ in repeats[:3] for arrival in flow.arrivals[:3]]
        yield Violation(
            ViolationClass.TOO_MANY_REPEATS, f"outage {place} ({kinds})", detail, (*outage.faults, *shown)
        )


def _success(flow: Flow, arrival: Arrival) -> tuple[Record, ...]:
    """Returns the attempt that came to a 2xx, with its arrivals, and what came later."""
    success = next(pair for pair in flow.pairs if pair.transition.state == DeliveryState.DELIVERED)
    return (*success.arrivals, success.transition, arrival)
