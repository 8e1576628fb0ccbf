"""The processes of a run: the victim and the witness. Started, listened to for one line, and ended by pid."""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.checks import ROOT
from deploy.process.load_settings import ENV_PREFIX
from schemas.errors import HooktideError


class ChildFailedError(HooktideError):
    """A process of the run did not do what it was started for."""


class Child:
    """One process.

    Args:
        command: the interpreter's arguments, without the interpreter.
        directory: its current directory.
        stderr: a file; it is replaced.
        environment: on top of ours, in which no setting of Hooktide is left.
        prefix: what runs the interpreter, as `("nice", "-n", "5")`.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        stderr: Path,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        self.name = command[1] if len(command) > 1 else command[0]
        self.stderr = stderr
        with stderr.open("w") as errors:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, *command],
                cwd=directory,
                env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **(environment or {})},
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    @property
    def is_alive(self) -> bool:
        """Whether it still runs (or is stopped)."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def read_line(self, timeout_s: float) -> bytes:
        """Returns its first line of output.

        Raises:
            ChildFailedError: it ended, or said nothing in time.
        """
        stdout = self._process.stdout
        assert stdout is not None
        until_s = time.monotonic() + timeout_s
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, until_s - time.monotonic())):
                    raise ChildFailedError(
                        f"{self.name}: no word within {timeout_s:g} s; {self._last_words()}"
                    )
                piece = os.read(stdout.fileno(), 65_536)
                if not piece:
                    raise ChildFailedError(f"{self.name}: ended with {self.wait(5.0)}; {self._last_words()}")
                line += piece
        return line

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Waits for its end; returns its exit code, negative for a signal.

        Raises:
            ChildFailedError: it runs on.
        """
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ChildFailedError(f"{self.name}: still runs after {timeout_s:g} s") from error
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self._process.kill()
        self.wait(30.0)

    def _last_words(self) -> str:
        return f"its last words in {self.stderr}: {self.stderr.read_text(errors='replace')[-2_000:]}"
