"""A Hooktide of the demo's own: `up` in a process beside it, over a directory that is gone afterwards.

A process and not a thread, so that what is shown is what everybody runs, and so that it can be stopped as
everybody stops it.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, Self

from deploy.client.api import HooktideApi
from deploy.client.connection import Connection
from deploy.client.where import clean_environment, local_key
from schemas.errors import Unavailable

ROOT: Final = Path(__file__).resolve().parent.parent.parent
STOP_S: Final = 20.0
_URL_WORD: Final = "API"


class OwnHooktide:
    """A running `up`; a context manager that leaves nothing behind.

    Attributes:
        api: with its admin key.

    Raises:
        Unavailable: it did not start; the message is what it said.
    """

    api: HooktideApi

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="hooktide-demo-"))
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> None:
        errors = self._directory / "log"
        with errors.open("w") as stderr:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "deploy.cli",
                    "up",
                    "--data",
                    "data",
                    "--port",
                    "0",
                    "--allow-private",
                ],
                cwd=self._directory,  # no hooktide.toml is here
                env={**clean_environment(), "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # Ctrl-C is ours: we stop it
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            words = line.split()
            if words[:1] == [_URL_WORD]:
                self.api = HooktideApi(Connection(words[1], local_key(self._directory / "data")))
                return
        lines = [line for line in errors.read_text().splitlines() if line.startswith("hooktide: ")]
        said = lines[-1].removeprefix("hooktide: ") if lines else f"exit code {self._process.wait()}"
        raise Unavailable(f"the demo's own Hooktide did not start: {said}; `./hooktide doctor` knows more")

    def _end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
        shutil.rmtree(self._directory, ignore_errors=True)
