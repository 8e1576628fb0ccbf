"""The process of `up`, which one marked record kills (SIGKILL): in `route`, or in `deliver`.

The ports are the real ones, and look at what passes through them. Which of them kills stands in the
environment variable `POISON`: `route` (its append to `deliveries`) or `deliver` (the hand-over to the
sender).
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, cast

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from dataflows.connectors.sender.port import Sender
from deploy.process.complaint import complain
from deploy.process.embedded import Audience, run_embedded
from deploy.process.greeting import Ready, greeting
from deploy.process.load_settings import Flag, load_settings
from deploy.process.log_lines import configure_logging
from deploy.process.makers import Makers
from schemas.outcome import PreparedRequest
from schemas.topics import DELIVERIES
from tests.integration.deadly import MARK, LogThatKillsWriters, Wrapped

VARIABLE = "POISON"


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives that")


class DeadlySender(Wrapped):
    """A sender that does not survive a marked request."""

    def submit(self, requests: Sequence[PreparedRequest]) -> None:
        if any(MARK in request.body for request in requests):
            die()
        self._inner.submit(requests)


def open_deadly_log(
    directory: Path, *, partitions: Mapping[str, int], clock_ms: Callable[[], int], linger_ms: float
) -> LocalLog:
    log = LocalLog.open(directory, partitions=partitions, clock_ms=clock_ms, linger_ms=linger_ms)
    return cast("LocalLog", LogThatKillsWriters(log, [DELIVERIES.name], die))


def open_deadly_sender(policy: EgressPolicy) -> Sender:
    return cast("Sender", DeadlySender(open_aiohttp_sender(policy)))


MAKERS = {
    "route": Makers(open_log=open_deadly_log),
    "deliver": Makers(open_sender=open_deadly_sender),
}


def main(arguments: list[str]) -> int:
    data = arguments[arguments.index("--data") + 1]
    settings = load_settings(
        (
            Flag("data", "--data", data),
            Flag("api.port", "--port", 0),
            Flag("egress.allow_private_networks", "--allow-private", value=True),
        )
    )
    configure_logging("info")

    def greet(ready: Ready) -> None:
        sys.stdout.write(greeting(ready, settings, is_terminal=False))
        sys.stdout.flush()

    return run_embedded(
        settings, Audience(greet, lambda: None, complain), makers=MAKERS[os.environ[VARIABLE]]
    )


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # as `up` does
