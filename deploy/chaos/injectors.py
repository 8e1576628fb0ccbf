"""The injectors: what can be done to a running Hooktide, one small class each.

A round starts a victim with an injector's arguments, puts it under load, and lets the injector work. It
returns the faults as the checker reads them, but for what only the run knows: how much was in flight (that is
counted from the witness's file) and when the system was back. When the victim has ended the next round starts
it again over what is left. A further kind of fault is a further class here, and a scenario that names it.
"""

import signal
import time
from random import Random
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from deploy.chaos.child import ChildFailedError
from deploy.chaos.points import PASSAGES_MAX, Point
from deploy.chaos.scene import LOOK_S, Scene, stop
from deploy.chaos.trap import KillNote
from deploy.chaos.victim import NOTE_FILE
from deploy.checker.history import Fault, FaultKind

POINT_TIMEOUT_S: Final = 30.0


class Injector(Protocol):
    """One kind of fault."""

    @property
    def name(self) -> str:
        """Names it in the figures."""

    def arguments(self, random: Random) -> tuple[str, ...]:
        """Returns what the victim of the round is started with, besides its data directory."""

    def inject(self, scene: Scene) -> list[Fault]:
        """Works on the victim under load; returns when the fault is over, or the victim dead.

        Raises:
            ChildFailedError: Hooktide did not do what it promises (exit code 0 on SIGTERM, say).
        """


class _FromOutside(Struct, frozen=True):
    """A fault that the victim is not told of."""

    def arguments(self, random: Random) -> tuple[str, ...]:
        """Nothing: the victim does not know."""
        del random
        return ()


class KillAtRandom(_FromOutside, frozen=True):
    """SIGKILL at a random time, with enough in flight."""

    name: str = "kill"

    def inject(self, scene: Scene) -> list[Fault]:
        """Kills it."""
        scene.warm_up()
        began_at_ns = time.monotonic_ns()
        scene.victim.kill()
        return [scene.killed(began_at_ns)]


class KillAtPoint(Struct, frozen=True):
    """The victim kills itself at a named point, after a seeded time under load, at a seeded passage."""

    point: Point
    after_ms: tuple[int, int] = (1_500, 4_000)

    @property
    def name(self) -> str:
        """The point's."""
        return self.point.value

    def arguments(self, random: Random) -> tuple[str, ...]:
        """The point, at which passage of it, and from when on they count."""
        passage, after_ms = random.randint(1, PASSAGES_MAX), random.randint(*self.after_ms)
        return ("--kill-at", f"{self.point.value}:{passage}", "--after-ms", str(after_ms))

    def inject(self, scene: Scene) -> list[Fault]:
        """Waits for the victim's end."""
        note_file = scene.directory / NOTE_FILE
        until_s = time.monotonic() + POINT_TIMEOUT_S
        while scene.victim.is_alive:
            if time.monotonic() > until_s:
                scene.victim.kill()
                raise ChildFailedError(f"the point {self.point.value} was not reached under load")
            time.sleep(LOOK_S)
        code = scene.victim.wait(1.0)
        if code != -signal.SIGKILL or not note_file.exists():
            raise ChildFailedError(f"the process ended by itself with {code}, not at {self.point.value}")
        note = msgspec.json.decode(note_file.read_bytes(), type=KillNote)
        note_file.unlink()
        return [scene.killed(note.at_ns, note.point.value, f"passage {note.passages}")]


class Stop(_FromOutside, frozen=True):
    """SIGTERM: exit code 0, and nothing is sent again."""

    name: str = "stop"

    def inject(self, scene: Scene) -> list[Fault]:
        """Stops it, and looks at its exit code."""
        scene.warm_up()
        return [stop(scene.victim)]


class Pause(_FromOutside, frozen=True):
    """SIGSTOP, and SIGCONT after some seconds: the process notices nothing but the clock."""

    pause_s: float = 3.0
    after_s: float = 2.0
    name: str = "pause"

    def inject(self, scene: Scene) -> list[Fault]:
        """Stops it for a while, and lets it work on for another."""
        scene.warm_up()
        began_at_ns = time.monotonic_ns()
        scene.victim.send(signal.SIGSTOP)
        time.sleep(self.pause_s)
        scene.victim.send(signal.SIGCONT)
        ended_at_ns = time.monotonic_ns()
        scene.run_for(self.after_s)
        return [
            Fault(
                kind=FaultKind.PAUSE,
                began_at_ns=began_at_ns,
                ended_at_ns=ended_at_ns,
                recovered_at_ns=time.monotonic_ns(),
            )
        ]
