"""The watchdog, by a clock that the test turns: the silent are reported once, a sleep blames nobody."""

from dataflows.engine.watchdog import Watchdog


class World:
    """A watchdog with a silence of 20 s and checks every 5 s, and what it reported."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.reports: list[tuple[str, float]] = []
        self.dog = Watchdog(
            lambda name, silent_s: self.reports.append((name, silent_s)),
            silent_s_max=20.0,
            clock=lambda: self.now_s,
        )

    def pass_s(self, seconds: float, *beating: object) -> None:
        """Lets time pass in steps of a check, with these pulses beating."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += 5.0
            for pulse in beating:
                pulse.beat()  # type: ignore[attr-defined]
            self.dog.check()


def test_a_beating_flow_is_never_reported() -> None:
    world = World()
    pulse = world.dog.watch("route")
    world.pass_s(1_000, pulse)
    assert world.reports == []


def test_a_silent_flow_is_reported_once_with_its_name_and_silence() -> None:
    world = World()
    beating, _silent = world.dog.watch("route"), world.dog.watch("deliver")
    world.pass_s(20, beating)
    assert world.reports == []
    world.pass_s(100, beating)
    assert world.reports == [("deliver", 25.0)]


def test_a_flow_that_beats_again_and_falls_silent_again_is_reported_again() -> None:
    world = World()
    pulse = world.dog.watch("route")
    world.pass_s(30)
    world.pass_s(10, pulse)
    world.pass_s(30)
    assert [name for name, _ in world.reports] == ["route", "route"]


def test_a_released_flow_is_not_missed_and_a_new_pulse_begins_afresh() -> None:
    world = World()
    world.dog.watch("route")
    world.dog.release("route")
    world.pass_s(100)
    assert world.reports == []
    world.dog.watch("route")
    world.pass_s(20)
    assert world.reports == []
    world.pass_s(5)
    assert [name for name, _ in world.reports] == ["route"]


def test_when_the_whole_process_stood_still_nobody_is_blamed() -> None:
    world = World()
    world.dog.watch("route")
    world.now_s += 3_600
    world.dog.check()
    assert world.reports == []
    world.pass_s(25)
    assert [name for name, _ in world.reports] == ["route"]


def test_the_thread_checks_by_itself_and_ends() -> None:
    reports: list[str] = []

    def on_stall(name: str, _silent_s: float) -> None:
        reports.append(name)
        dog.close()

    dog = Watchdog(on_stall, silent_s_max=0.02, check_s=0.01)
    dog.watch("route")
    dog.start()
    assert dog._thread is not None
    dog._thread.join(10)
    assert reports == ["route"]
