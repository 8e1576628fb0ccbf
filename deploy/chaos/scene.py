"""The scene of a round: what an injector finds, and what it may do with it."""

import signal
import time
from pathlib import Path
from random import Random
from typing import Final

from deploy.chaos.child import Child, ChildFailedError
from deploy.chaos.shared_page import HeldPage
from deploy.chaos.witness_counts import SharedCounts
from deploy.checker.history import Fault, FaultKind

LOOK_S: Final = 0.001
STOP_TIMEOUT_S: Final = 60.0
_IN_FLIGHT_WAIT_S: Final = 5.0


class Scene:
    """A running victim under load. Made anew for each round.

    Attributes:
        random: of the run's seed; nothing else draws from it while an injector works.
        directory: of the run; `data` in it is the victim's.
        in_flight_min: below it a kill says little.
    """

    def __init__(
        self,
        random: Random,
        directory: Path,
        victim: Child,
        counts: SharedCounts,
        held: HeldPage,
        in_flight_min: int,
        warm_up_s: tuple[float, float],
    ) -> None:
        self.random = random
        self.directory = directory
        self.data = directory / "data"
        self.victim = victim
        self.counts = counts
        self.held = held
        self.in_flight_min = in_flight_min
        self._warm_up_s = warm_up_s

    def warm_up(self) -> None:
        """Lets the load run for a seeded time, then until enough is in flight."""
        self.run_for(self.random.uniform(*self._warm_up_s))
        until_s = time.monotonic() + _IN_FLIGHT_WAIT_S
        while self.counts.read().in_flight < self.in_flight_min and time.monotonic() < until_s:
            self._check_alive()
            time.sleep(LOOK_S)

    def run_for(self, duration_s: float) -> None:
        """Lets the victim work under load.

        Raises:
            ChildFailedError: it ended by itself.
        """
        until_s = time.monotonic() + duration_s
        while (left_s := until_s - time.monotonic()) > 0:
            self._check_alive()
            time.sleep(min(0.05, left_s))

    def killed(self, began_at_ns: int, point: str = "", detail: str = "") -> Fault:
        """Returns the fault of a victim that is dead now; its page says what it held."""
        return Fault(
            kind=FaultKind.KILL,
            began_at_ns=began_at_ns,
            ended_at_ns=time.monotonic_ns(),
            repeats_max=self.held.read(),
            point=point,
            detail=detail,
        )

    def _check_alive(self) -> None:
        if not self.victim.is_alive:
            raise ChildFailedError(f"the process ended by itself with {self.victim.wait(1.0)}")


def stop(victim: Child) -> Fault:
    """Stops a victim with SIGTERM and waits for its end.

    Raises:
        ChildFailedError: its exit code is not 0.
    """
    began_at_ns = time.monotonic_ns()
    victim.send(signal.SIGTERM)
    code = victim.wait(STOP_TIMEOUT_S)
    if code != 0:
        raise ChildFailedError(f"the process ended with {code} after SIGTERM, not with 0")
    return Fault(kind=FaultKind.STOP, began_at_ns=began_at_ns, ended_at_ns=time.monotonic_ns())
