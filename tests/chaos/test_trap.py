"""The trap: it springs at its point, at its passage, under load; and then nothing runs any more."""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from deploy.chaos.points import Point
from deploy.chaos.trap import KillNote, Trap
from deploy.checks import ROOT

AN_HOUR_MS = 3_600_000

_VICTIM = """
import sys
from pathlib import Path
from deploy.chaos.points import Point
from deploy.chaos.trap import Trap

trap = Trap(Point.BEFORE_WRITE, 3, 0, 5, Path(sys.argv[1]))
trap.in_flight = lambda: 7
trap.arm()
try:
    for number in range(10):
        trap.pass_by(Point.AFTER_SEND)
        print(number, flush=True)
        trap.pass_by(Point.BEFORE_WRITE)
finally:
    print("finally", flush=True)
"""


def test_it_ends_the_process_at_the_third_passage_and_nothing_runs_after_it(tmp_path: Path) -> None:
    note = tmp_path / "note"
    done = subprocess.run(
        [sys.executable, "-c", _VICTIM, str(note)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1", "2"]
    left = msgspec.json.decode(note.read_bytes(), type=KillNote)
    assert (left.point, left.passages, left.in_flight) == (Point.BEFORE_WRITE, 3, 7)


@pytest.mark.parametrize(
    ("point", "after_ms", "in_flight", "is_armed", "counts"),
    [
        (Point.BEFORE_WRITE, 0, 5, True, True),
        (Point.BEFORE_WRITE, 0, 4, True, False),
        (Point.BEFORE_WRITE, 0, 5, False, False),
        (Point.BEFORE_WRITE, AN_HOUR_MS, 5, True, False),
        (Point.BEFORE_TRIM, 0, 5, True, False),
        (None, 0, 5, True, False),
    ],
)
def test_a_passage_counts_at_its_point_when_armed_and_under_load(
    point: Point | None, after_ms: int, in_flight: int, *, is_armed: bool, counts: bool, tmp_path: Path
) -> None:
    trap = Trap(point, 1, after_ms, 5, tmp_path / "note")
    trap.in_flight = lambda: in_flight
    if is_armed:
        trap.arm()

    assert trap.is_next(Point.BEFORE_WRITE) is counts
