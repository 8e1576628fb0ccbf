"""What reaches a shard's host besides blocks of the log, and what leaves it."""

from collections.abc import Sequence
from typing import NamedTuple

from operators.shard.actions import Dispatch
from schemas.outcome import Outcome


class Boot(NamedTuple):
    """Makes the keyed step's logic exist, so that pending work goes on without traffic."""

    shard: int


class Outcomes(NamedTuple):
    """Outcomes of one shard's attempts."""

    shard: int
    outcomes: Sequence[Outcome]


class Wake(NamedTuple):
    """Look again: slots are free, or these endpoints' records changed."""

    shard: int
    endpoint_ids: Sequence[str] = ()


class Tick(NamedTuple):
    """Time has passed: a timer is due, or it is time for a look or a barrier."""

    shard: int
    is_barrier: bool = False


class Sends(NamedTuple):
    """Sign and send these; their slots are taken."""

    shard: int
    dispatches: Sequence[Dispatch]
