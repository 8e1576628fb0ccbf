"""The receiver of a benchmark: `deploy.receiver.sink` in a process of its own, on the other core."""

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
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().split()[-1])
    finally:
        process.terminate()
        process.wait(10)
