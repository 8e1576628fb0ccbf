"""A real `./hooktide up` in a process of its own: started, asked over HTTP, killed, started again.

Tests of the whole system share this. It speaks plain `http.client`, so that what a test sees is what is on
the wire, and keeps both output streams for the message of a failed test.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

from msgspec import Struct

from deploy.checks import ROOT
from deploy.process.load_settings import ENV_PREFIX
from deploy.receiver.receiver import ReceiverThread

READY_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 45.0
REQUEST_TIMEOUT_S = 10.0
LAST_WORDS = "Try it"
_URL_LINE = "  API "


class Answer(Struct, frozen=True):
    """An answer of the API; `json` is None when the body is none."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON is what it is
        return json.loads(self.body) if self.body else None


def await_events(receiver: ReceiverThread, wanted: set[str], timeout_s: float = 15.0) -> set[str]:
    """Waits until every one of these events has arrived, repeats or not, or the time is over.

    Returns:
        The ids of the events that have arrived.
    """
    until_s = time.monotonic() + timeout_s
    count = len(wanted)
    while True:
        arrivals = receiver.wait_for(count, max(0.0, until_s - time.monotonic()))
        arrived = {arrival.webhook_id for arrival in arrivals}
        if wanted <= arrived or len(arrivals) < count:
            return arrived
        count = len(arrivals) + 1


class HooktideProcess:
    """One data directory, and at most one process over it at a time.

    Attributes:
        data: the data directory.
        url: of the API, without a path; a new one after each start.
        greeting: what `up` has printed; all of it once the process has ended.
        prefix: put before the command, as in `nice`; it must end in an `exec`.
        module: what is run; a test may put its own entry before the real one.
    """

    module = "deploy.cli"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.url = ""
        self.greeting = ""
        self.prefix: tuple[str, ...] = ()
        self._process: subprocess.Popen[str] | None = None
        self._starts = 0

    def launch(self, args: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Self:
        """Starts the process, and waits for nothing."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        self.directory.mkdir(parents=True, exist_ok=True)
        self._starts += 1
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        command = [sys.executable, "-m", self.module, "up", "--data", self.data.name, "--port", "0", *args]
        with self.log_file.open("w") as stderr:
            self._process = subprocess.Popen(
                [*self.prefix, *command],
                cwd=self.directory,
                env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **(env or {})},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        return self

    def start(self, args: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Self:
        """Starts the process on a free port, and waits until it says that it is ready."""
        self.launch(("--allow-private", *args), env)
        self.await_ready()
        return self

    def await_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Reads the greeting to its end."""
        until_s = time.monotonic() + timeout_s
        self.greeting = ""
        stdout = self.process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while LAST_WORDS not in self.greeting:
                if not selector.select(max(0.0, until_s - time.monotonic())):
                    raise AssertionError(f"not ready within {timeout_s} s\n{self.log}")
                piece = os.read(stdout.fileno(), 65_536).decode()
                if not piece:
                    raise AssertionError(f"it ended with {self.process.wait()}\n{self.log}")
                self.greeting += piece
        line = next(line for line in self.greeting.splitlines() if line.startswith(_URL_LINE))
        self.url = line.split()[1].removesuffix("/api/v1/")

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process that was started last."""
        assert self._process is not None, "start it first"
        return self._process

    @property
    def log_file(self) -> Path:
        """Where the last start's stderr goes."""
        return self.directory / f"stderr.{self._starts}"

    @property
    def log(self) -> str:
        """The last start's stderr."""
        return self.log_file.read_text()

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """The last start's log lines."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    @property
    def admin_key(self) -> str:
        """The admin key of the data directory."""
        return (self.data / "admin.key").read_text().strip()

    def api(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Asks the API with the admin key.

        Args:
            path: from `/api/v1` on when it starts with another word, else from the root, as `/readyz`.
            body: sent as JSON when it is not None.
        """
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=REQUEST_TIMEOUT_S)
        try:
            connection.request(
                method,
                path if path.startswith("/") else f"/api/v1/{path}",
                None if body is None else json.dumps(body),
                {
                    "Authorization": f"Bearer {self.admin_key}",
                    "Content-Type": "application/json",
                    **(headers or {}),
                },
            )
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def get_until(self, path: str, is_there: Any, timeout_s: float = 5.0) -> Any:  # noqa: ANN401
        """Asks again until `is_there(json)`, and returns that; the API promises its reads within 2 s."""
        until_s = time.monotonic() + timeout_s
        while True:
            answer = self.api("GET", path)
            if answer.status == 200 and is_there(answer.json):
                return answer.json
            assert time.monotonic() < until_s, f"{path}: {answer.status} {answer.body.decode()}\n{self.log}"
            time.sleep(0.02)

    def create_endpoint(self, url: str, event_types: Sequence[str] = ("*",), **fields: object) -> Any:  # noqa: ANN401
        """Creates an endpoint of tenant `acme` without verification; returns it, with its secret."""
        body = {"tenant_id": "acme", "url": url, "event_types": list(event_types), "verification": "skip"}
        answer = self.api("POST", "webhooks/endpoints", {**body, **fields})
        assert answer.status == 201, answer.body
        return answer.json

    def publish(self, data: object, event_type: str = "order.created", key: str | None = None) -> Any:  # noqa: ANN401
        """Publishes an event of tenant `acme`; returns the answer to it."""
        body = {"tenant_id": "acme", "type": event_type, "data": data}
        answer = self.api("POST", "events", body, {} if key is None else {"Idempotency-Key": key})
        assert answer.status == 202, answer.body
        return answer.json

    def kill(self) -> None:
        """Kills it (SIGKILL) and waits for its end."""
        self.process.kill()
        self._end(STOP_TIMEOUT_S)

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Asks it to stop (SIGTERM); returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._end(timeout_s)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Waits until it ends by itself; returns its exit code."""
        return self._end(timeout_s)

    def close(self) -> None:
        """Leaves nothing running."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        elif self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()  # it ended by itself, and nobody has waited for that

    def _end(self, timeout_s: float) -> int:
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"it did not end within {timeout_s} s\n{self.log}") from error
        if self.process.stdout is not None:
            while piece := os.read(self.process.stdout.fileno(), 65_536):
                self.greeting += piece.decode()
            self.process.stdout.close()
        return code
