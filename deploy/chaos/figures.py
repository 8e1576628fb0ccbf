"""The figures of a run: how fast, how much was in flight and sent again at each kill, and the bounds.

The witness's file is the measure. The rate counts first arrivals between the moment the load came on and the
fault, so that repeats and what a restart catches up with do not make it look better.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import Final

from msgspec import Struct

from deploy.checker.history import Arrival, Fault, FaultKind, Record, TransitionRecord
from deploy.checker.report import OutageFigures

WRITE_MS: Final = 5.0
"""The promise's allowance for writing an outcome."""
RATE_MIN: Final = 1_000.0
NS_PER_S: Final = 1_000_000_000


class Kill(Struct, frozen=True):
    """One kill.

    Attributes:
        in_flight: as the witness counted.
        held: slots that the victim held, the bound of `repeats`.
        repeats: deliveries sent again because of it.
        down_ms: until it was ready again.
    """

    point: str
    in_flight: int
    held: int
    repeats: int
    down_ms: int


class Figures(Struct, frozen=True):
    """What a run measured.

    Attributes:
        rate_per_s: deliveries a second, mean over the rounds.
        p50_ms: of an attempt, from its start to its end as the sender saw it.
        repeats_mean_max: what the mean of the repeats per kill may be: 2 x rate x (p50 + 5 ms).
    """

    rounds: int
    arrivals: int
    deliveries: int
    rate_per_s: float
    rate_min_per_s: float
    p50_ms: float
    kills: tuple[Kill, ...]
    repeats_mean: float
    repeats_mean_max: float

    def shortfalls(self, in_flight_min: int) -> list[str]:
        """Returns why the run says too little: the load was not what the claim is about."""
        weak = [kill for kill in self.kills if kill.in_flight < in_flight_min]
        found = []
        if self.rate_per_s < RATE_MIN:
            found.append(f"only {self.rate_per_s:.0f} deliveries/s, {RATE_MIN:.0f} are asked for")
        if weak:
            found.append(f"{len(weak)} kills with fewer than {in_flight_min} in flight")
        return found

    def excesses(self) -> list[str]:
        """Returns which bounds are broken."""
        if self.repeats_mean <= self.repeats_mean_max:
            return []
        measured = f"{self.repeats_mean:.1f} deliveries sent again per kill in the mean"
        return [f"{measured}, {self.repeats_mean_max:.1f} are allowed (2 x rate x (p50 + 5 ms))"]


def figures_of(
    history: Sequence[Record], windows: Sequence[tuple[int, int]], outages: Sequence[OutageFigures]
) -> Figures:
    """Returns the figures of a history.

    Args:
        windows: of each round, when the load came on and when the fault began.
        outages: as the checker counted them.
    """
    arrivals = [one for one in history if isinstance(one, Arrival)]
    firsts: dict[tuple[str, str], int] = {}
    for one in arrivals:
        firsts.setdefault((one.webhook_id, one.path), one.received_at_ns)
    rates = _rates(sorted(firsts.values()), windows)
    durations_ms = [
        one.attempt.finished_at_ms - one.attempt.started_at_ms
        for one in history
        if isinstance(one, TransitionRecord) and one.attempt is not None
    ]
    p50_ms = float(median(durations_ms)) if durations_ms else 0.0
    kills = _kills([one for one in history if isinstance(one, Fault)], outages)
    rate = fmean(rates) if rates else 0.0
    return Figures(
        rounds=len(windows),
        arrivals=len(arrivals),
        deliveries=len(firsts),
        rate_per_s=rate,
        rate_min_per_s=min(rates, default=0.0),
        p50_ms=p50_ms,
        kills=kills,
        repeats_mean=fmean(kill.repeats for kill in kills) if kills else 0.0,
        repeats_mean_max=2 * rate * (p50_ms + WRITE_MS) / 1_000,
    )


def text_of(figures: Figures) -> str:
    """Returns the figures for people."""
    rate = f"rate {figures.rate_per_s:.0f} deliveries/s (lowest round {figures.rate_min_per_s:.0f})"
    lines = [
        f"{figures.rounds} rounds: {figures.deliveries} deliveries, {figures.arrivals} requests",
        f"{rate}, p50 {figures.p50_ms:.0f} ms",
    ]
    return "\n".join([*lines, *_kill_lines(figures)])


def _kill_lines(figures: Figures) -> Iterator[str]:
    kills = figures.kills
    if not kills:
        return
    flights = [kill.in_flight for kill in kills]
    at_points = sum(1 for kill in kills if kill.point)
    back_s = median(kill.down_ms for kill in kills) / 1_000
    yield f"{len(kills)} kills, {at_points} at named points; back after {back_s:.1f} s (median)"
    yield f"in flight {min(flights)} to {max(flights)}"
    yield (
        f"sent again per kill: mean {figures.repeats_mean:.1f} of at most {figures.repeats_mean_max:.1f}, "
        f"highest {max(kill.repeats for kill in kills)}"
    )
    for kill in kills:
        yield (
            f"  {kill.point or 'at a random time':28} in flight {kill.in_flight:4}  held {kill.held:4}  "
            f"sent again {kill.repeats:4}  back after {kill.down_ms} ms"
        )


def _rates(firsts_ns: Sequence[int], windows: Sequence[tuple[int, int]]) -> list[float]:
    return [
        sum(1 for at_ns in firsts_ns if began_ns <= at_ns < ended_ns) * NS_PER_S / (ended_ns - began_ns)
        for began_ns, ended_ns in windows
    ]


def _kills(faults: Sequence[Fault], outages: Sequence[OutageFigures]) -> tuple[Kill, ...]:
    by_begin = {outage.began_at_ns: outage for outage in outages}
    kills = []
    for fault in faults:
        if fault.kind is not FaultKind.KILL:
            continue
        outage = by_begin.get(fault.began_at_ns)
        back_ns = fault.recovered_at_ns or fault.ended_at_ns
        kills.append(
            Kill(
                fault.point,
                fault.in_flight,
                fault.repeats_max or 0,
                0 if outage is None else outage.repeats,
                (back_ns - fault.began_at_ns) // 1_000_000,
            )
        )
    return tuple(kills)
