"""The `Sender` port: prepared requests in, outcomes out, in blocks across the thread boundary.

The dataflow's worker thread submits and collects; the sender's own thread runs the event loop. Blocks matter:
one hand-over of 100 requests costs what one request costs.
"""

from collections.abc import Sequence
from typing import Protocol

from schemas.outcome import Outcome, PreparedRequest


class Sender(Protocol):
    """Sends signed requests. Every submitted request comes back exactly once as an outcome."""

    def submit(self, requests: Sequence[PreparedRequest]) -> None:
        """Starts all of them; returns at once. Limits on how many are the caller's business (slots)."""

    def collect(self, outcomes_max: int = 1_000) -> list[Outcome]:
        """Returns outcomes that have arrived since; empty when there is none. Never blocks."""

    @property
    def in_flight_count(self) -> int:
        """How many were submitted and not yet collected."""

    @property
    def is_alive(self) -> bool:
        """Whether requests are still carried: until `close`, unless the sender's thread has died."""

    def close(self, deadline_s: float) -> None:
        """Waits up to `deadline_s` for what is in flight, ends the rest as `our_shutdown`, frees everything.

        Outcomes can be collected after it.
        """
