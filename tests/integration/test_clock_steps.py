"""The wall clock is set, or the process stands still: it goes on by itself, no retry is early or doubled."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RequireReal
from tests.integration.hooktide_process import HooktideProcess
from tests.integration.stepped_world import PUBLISHES_PER_S, SHORT_S, SteppedClock, SteppedWorld

HOUR_S = 3_600
DAY_S = 86_400
STANDSTILL_S = 60.0
BARRIERS_S = 3.0
"""What a kill may find unwritten: a barrier comes each second, and this machine is busy."""


def _lines(hooktide: HooktideProcess, event: str) -> list[dict[str, Any]]:
    return [line for line in hooktide.log_lines if line["event"] == event]


@pytest.fixture
def clock(tmp_path: Path, require_real: RequireReal) -> SteppedClock:
    """A wall clock to be set."""
    return SteppedClock(tmp_path, require_real)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S, DAY_S, -DAY_S])
def test_a_clock_that_is_set_under_load_delays_nothing_and_hastens_nothing(
    hooktide: HooktideProcess, clock: SteppedClock, step_s: int
) -> None:
    with SteppedWorld(hooktide, clock) as world:
        world.work()
        world.await_that(lambda: len(world.on("/dead")) >= PUBLISHES_PER_S, "load")
        clock.set_to(step_s)
        world.await_recovery()
        # Retries that were pending when it was set, and retries of what failed since, come in their time.
        until_s = time.monotonic() + SHORT_S
        world.await_that(lambda: time.monotonic() > until_s, "load after the step")
        world.rest()
        world.await_all()
        world.check()
        (seen,) = _lines(hooktide, "wall_clock_set")
        assert abs(seen["by_s"] - step_s) < 1.0

        # Barriers went on, too: the next process need not read again what came since the clock was set.
        published = len(world.published)
        world.work()
        world.await_that(lambda: len(world.published) > published + PUBLISHES_PER_S * BARRIERS_S, "more")
        world.rest()
        hooktide.kill()
        clock.set_to(0)  # back again while nobody looks: within one boot that is no riddle
        world.start()
        starts = _lines(hooktide, "shard_started")
        read_again = sum(line["deliveries_end"] - line["deliveries_offset"] for line in starts)
        assert read_again <= 4 * PUBLISHES_PER_S * BARRIERS_S, starts
        world.await_recovery()
        world.await_all()
        dead = world.on("/dead")
        early = {event: dead[event] for event in world.published[:published] if len(dead[event]) > 2}
        assert not early, "retries of ten minutes came early"


@pytest.mark.timeout(200)
def test_a_process_that_stood_still_for_a_minute_goes_on_and_sends_nothing_twice(
    hooktide: HooktideProcess, clock: SteppedClock
) -> None:
    with SteppedWorld(hooktide, clock) as world:
        world.work()
        world.await_that(lambda: len(world.on("/dead")) >= 2 * PUBLISHES_PER_S, "load")
        world.rest()
        last = world.publish_one()
        world.await_that(lambda: last in world.on("/slow"), "a request in flight")
        hooktide.process.send_signal(signal.SIGSTOP)  # its answer comes while nobody reads it
        time.sleep(STANDSTILL_S)  # the fault itself
        hooktide.process.send_signal(signal.SIGCONT)
        world.await_recovery()
        world.await_all()
        world.check(stood_still_s=STANDSTILL_S)
        assert not _lines(hooktide, "wall_clock_set")
        assert hooktide.terminate() == 0
