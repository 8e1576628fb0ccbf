"""No endpoint has more requests open than its cap, as the witness counts them.

A request is open from its arrival to its answer. What was left hanging ends with its attempt; what an outage
cut ends with the process; of the rest nothing is known, and it counts as ended at once. So the count is never
too high.
"""

from collections import defaultdict
from collections.abc import Iterator

from deploy.checker.flow import Fate
from deploy.checker.history import Arrival
from deploy.checker.host_time import NS_PER_MS
from deploy.checker.index import Index
from deploy.checker.violation import Violation, ViolationClass

_OPEN_SHOWN_MAX = 12


def over_concurrency(index: Index) -> Iterator[Violation]:
    """Yields, per endpoint, the first moment at which more than its cap was open."""
    spans: dict[str, list[tuple[int, int, Arrival]]] = defaultdict(list)
    tolerance_ns = index.run.clock_tolerance_ms * NS_PER_MS
    for flow in index.flows.values():
        for pair in flow.pairs:
            finished_ns = min(index.host_time.moments_ns(pair.attempt.finished_at_ms), default=0)
            for place, arrival in enumerate(pair.arrivals, 1):
                # An earlier request of the same attempt died with its connection, unseen by us.
                is_last = place == len(pair.arrivals)
                ended_ns = finished_ns - tolerance_ns if is_last else arrival.received_at_ns
                if arrival.answered_at_ns is not None:
                    is_read = is_last and pair.attempt.status is not None
                    ended_ns = arrival.answered_at_ns if is_read else min(ended_ns, arrival.answered_at_ns)
                spans[flow.endpoint_id].append((arrival.received_at_ns, ended_ns, arrival))
        for place, stray in enumerate(flow.strays):
            arrival = stray.arrival
            answered_ns = arrival.answered_at_ns
            ended_ns = answered_ns if answered_ns is not None else arrival.received_at_ns
            following = flow.strays[place + 1] if place + 1 < len(flow.strays) else None
            is_resent = following is not None and following.outage == stray.outage
            if stray.fate is Fate.CUT and not (is_resent and answered_ns is None):
                died_ns = index.outages.all[stray.outage].began_at_ns
                ended_ns = died_ns if answered_ns is None else min(answered_ns, died_ns)
            spans[flow.endpoint_id].append((arrival.received_at_ns, ended_ns, arrival))
    for endpoint_id, known in spans.items():
        life = index.lives.get(endpoint_id)
        if life is None:
            continue
        own = life.known.in_flight_max
        yield from _sweep(endpoint_id, known, own if own is not None else index.run.endpoint_in_flight_max)


def _sweep(endpoint_id: str, spans: list[tuple[int, int, Arrival]], most: int) -> Iterator[Violation]:
    """Walks through the ends and beginnings in order of time; at a tie the end comes first."""
    edges: list[tuple[int, int, int]] = []
    for place, (began_ns, ended_ns, _) in enumerate(spans):
        if ended_ns > began_ns:
            edges.append((began_ns, 1, place))
            edges.append((ended_ns, 0, place))
    edges.sort()
    is_open: dict[int, None] = {}
    for _, is_beginning, place in edges:
        if not is_beginning:
            del is_open[place]
            continue
        is_open[place] = None
        if len(is_open) > most:
            detail = f"{len(is_open)} requests were open at once, {most} at most"
            shown = tuple(spans[other][2] for other in list(is_open)[-_OPEN_SHOWN_MAX:])
            yield Violation(ViolationClass.OVER_CONCURRENCY, endpoint_id, detail, shown)
            return
