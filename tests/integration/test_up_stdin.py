"""`up` leaves its standard input alone: a supervisor's pipe, or a script that goes on, is not for it."""

import signal
import subprocess
import sys
from pathlib import Path

from deploy.checks import ROOT
from tests.integration.fresh_copy import without_settings
from tests.integration.hooktide_process import LAST_WORDS, STOP_TIMEOUT_S


def test_what_stands_in_a_pipe_at_stdin_is_neither_read_nor_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.cli", "up", "--data", "data", "--port", "0"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**without_settings(), "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("1\trows\tfor\tnobody\n" * 10)
            process.stdin.flush()  # and it stays open

            assert any(LAST_WORDS in line for line in process.stdout)

            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_TIMEOUT_S) == 0
        finally:
            process.kill()
