"""The receiver of a benchmark: `deploy.receiver.sink` in a process of its own, on another core."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def sink() -> Iterator[int]:
    """Starts the sink; gives its port; stops it by its process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.receiver.sink", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    leave_our_core(process.pid)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().split()[-1])
    finally:
        process.terminate()
        process.wait(10)


def leave_our_core(pid: int) -> None:
    """Moves a process to the cores that this one does not use."""
    others = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0)
    if others:
        os.sched_setaffinity(pid, others)
