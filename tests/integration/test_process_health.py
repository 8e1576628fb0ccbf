"""A flow that dies or hangs takes the process with it, soon and with the right code; the next one goes on."""

import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from deploy.process.embedded import SILENT_S_MAX
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from tests.integration.dying_flow import MODULE, TRAP
from tests.integration.hooktide_process import HooktideProcess, await_events

EVENTS = 40
ANSWER_S = 0.5
SOON_S = 10.0


@pytest.fixture
def trap(hooktide: HooktideProcess, tmp_path: Path) -> Iterator[Path]:
    """Starts a process whose flow falls into this trap, once the file is written."""
    path = tmp_path / "trap"
    hooktide.module = MODULE
    hooktide.start(env={TRAP: str(path)})
    yield path
    hooktide.close()


def _fill(hooktide: HooktideProcess, receiver: ReceiverThread) -> set[str]:
    """Publishes to an endpoint that is slow enough for all of them to be in flight together."""
    receiver.behave(Behaviour(delay_s=ANSWER_S))
    hooktide.create_endpoint(f"{receiver.url}/hook")
    wanted = {hooktide.publish({"n": n})["id"] for n in range(EVENTS)}
    receiver.wait_for(EVENTS // 2, timeout_s=10)
    return wanted


def _check_that_the_next_one_goes_on(
    hooktide: HooktideProcess, receiver: ReceiverThread, trap: Path, wanted: set[str]
) -> None:
    trap.unlink()
    hooktide.start(env={TRAP: str(trap)})
    wanted = wanted | {hooktide.publish({"n": "after"})["id"]}
    assert await_events(receiver, wanted) == wanted
    assert hooktide.terminate() == 0, hooktide.log


def test_a_flow_that_dies_ends_readiness_and_the_process_and_loses_nothing(
    hooktide: HooktideProcess, trap: Path
) -> None:
    with ReceiverThread() as receiver:
        wanted = _fill(hooktide, receiver)
        assert hooktide.api("GET", "/readyz").status == 200
        trap.write_text("die")
        began_s, answers = time.monotonic(), [200]
        while answers[-1] == 200:
            assert time.monotonic() - began_s < SOON_S, hooktide.log
            try:
                answers.append(hooktide.api("GET", "/readyz").status)
            except (OSError, HTTPException):  # it does not listen any more
                answers.append(0)
        assert answers[-1] in {0, 503}
        assert hooktide.wait(SOON_S) == 1
        (died,) = [line for line in hooktide.log_lines if line["event"] == "part_died"]
        assert (died["part"], "PlantedError" in died["error"]) == ("deliver", True)
        _check_that_the_next_one_goes_on(hooktide, receiver, trap, wanted)


@pytest.mark.timeout(150)
def test_a_flow_that_hangs_is_noticed_by_the_watchdog(hooktide: HooktideProcess, trap: Path) -> None:
    with ReceiverThread() as receiver:
        wanted = _fill(hooktide, receiver)
        trap.write_text("hang")
        assert hooktide.wait(2 * SILENT_S_MAX) == 70
        (stalled,) = [line for line in hooktide.log_lines if line["event"] == "stalled"]
        assert stalled["part"] == "deliver"
        _check_that_the_next_one_goes_on(hooktide, receiver, trap, wanted)
