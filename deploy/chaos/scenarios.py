"""The scenarios, by name: which load, which receivers, which faults in which order: a table that grows."""

from msgspec import Struct

from deploy.chaos.injectors import Injector, KillAtPoint, KillAtRandom, Pause, Stop
from deploy.chaos.points import Point


class Receiver(Struct, frozen=True):
    """How the receiver of an endpoint behaves; see `witness_script.PathScript`."""

    delay_ms: int = 100
    fail_share: float = 0.0
    hang_share: float = 0.0
    reset_share: float = 0.0


class Load(Struct, frozen=True):
    """An even load: each publish goes to every endpoint of one tenant.

    Attributes:
        receivers: taken in turn by the endpoints of each tenant.
    """

    tenants: tuple[str, ...] = ("acme", "globex")
    endpoints_per_tenant: int = 8
    publishes_per_s: float = 138.0
    receivers: tuple[Receiver, ...] = (Receiver(),)


class Scenario(Struct, frozen=True):
    """One scenario.

    Attributes:
        about: one sentence for `--help`.
        injectors: one a round, in turn.
        rounds: unless the command line says otherwise.
        in_flight_min: what must be in flight when a kill comes, as the witness counts.
        warm_up_s: a seeded time between the two passes before each fault.
        environment: settings of the victim, as it finds them in its environment.
        delays_ms: the retry schedule, which is set in the environment too. Short: a starved machine makes
            attempts fail, and the run waits for their retries.
        quiet_s: without any arrival for so long, beyond the longest retry delay, nothing more will come.
        is_figure_bound: whether rate and repeats are held to their bounds; else they are printed only.
        rounds_per_directory: then the run goes on in a fresh directory: the disk's use stays bounded.
    """

    name: str
    about: str
    injectors: tuple[Injector, ...]
    rounds: int
    load: Load = Load()
    in_flight_min: int = 50
    warm_up_s: tuple[float, float] = (1.5, 4.0)
    environment: dict[str, str] = {}
    delays_ms: tuple[int, ...] = (1_000, 2_000, 4_000, 8_000, 16_000)
    timeout_ms: int = 15_000
    quiet_s: float = 10.0
    is_figure_bound: bool = False
    rounds_per_directory: int = 50


def _alternating() -> tuple[Injector, ...]:
    """Every second kill at a point, each point in turn."""
    injectors: list[Injector] = []
    for point in Point:
        injectors += [KillAtRandom(), KillAtPoint(point)]
    return tuple(injectors)


_UNRELIABLE = (
    Receiver(),
    Receiver(delay_ms=20, fail_share=0.3),
    Receiver(delay_ms=20, reset_share=0.1),
    Receiver(delay_ms=5),
    Receiver(delay_ms=20, fail_share=0.1, hang_share=0.01),
    Receiver(delay_ms=20, fail_share=1.0),
)

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="kills",
            about="SIGKILL under an even load, every second one at a named code point.",
            injectors=_alternating(),
            rounds=20,
            is_figure_bound=True,
        ),
        Scenario(
            name="stops",
            about="SIGTERM under load: exit code 0, nothing is sent again.",
            injectors=(Stop(),),
            rounds=4,
        ),
        Scenario(
            name="slow-stops",
            about="SIGTERM while every answer takes 9 s: the stop waits for them, nothing is sent again.",
            injectors=(Stop(),),
            rounds=1,
            load=Load(publishes_per_s=8.0, receivers=(Receiver(delay_ms=9_000),)),
            warm_up_s=(3.0, 5.0),
        ),
        Scenario(
            name="pauses",
            about="SIGSTOP for 3 s under load: nothing is lost or sent again.",
            injectors=(Pause(),),
            rounds=3,
        ),
        Scenario(
            name="mixed",
            about="Kills, stops and pauses, with receivers that fail, hang and reset, on a short schedule.",
            injectors=(
                KillAtRandom(),
                Stop(),
                KillAtPoint(Point.BEFORE_WRITE),
                KillAtPoint(Point.BARRIER_AFTER_WRITE),
                Pause(pause_s=2.0),
                KillAtPoint(Point.BEFORE_TRIM),
            ),
            rounds=6,
            load=Load(publishes_per_s=80.0, receivers=_UNRELIABLE),
            in_flight_min=20,
            delays_ms=(1_000, 2_000, 2_000, 3_000),
            timeout_ms=3_000,
        ),
    )
}
