"""The victim: the process that `up` runs, which may end itself at a named point.

Settings come as for `up`: from the environment, and a data directory on the command line. On stdout it says,
in one line of JSON, that it is ready; on stderr it writes the log lines of `up`.

Run as `python -m deploy.chaos.victim --data DIR`, with the options of `run_victim` behind it.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from deploy.chaos.points import Point
from deploy.chaos.shared_page import HeldPage
from deploy.chaos.trap import Trap
from deploy.chaos.watched_ports import watched
from deploy.chaos.witness_counts import SharedCounts
from deploy.process.complaint import complain
from deploy.process.embedded import Audience, run_embedded
from deploy.process.exit_codes import code_of_start
from deploy.process.greeting import Ready
from deploy.process.load_settings import Flag, load_settings
from deploy.process.log_lines import configure_logging
from deploy.process.makers import Makers
from schemas.errors import HooktideError

NOTE_FILE = "kill.note"
PAGE_FILE = "held.page"
"""Beside the data directory, not in it: that one is Hooktide's own."""


class VictimReady(Struct, frozen=True):
    """The line that says that it is ready."""

    url: str
    admin_key: str
    started_ms: int
    slots: int


def run_victim(arguments: list[str], alter: Callable[[Makers], Makers] | None = None) -> int:
    """Runs the process to its end; returns its exit code.

    Args:
        arguments: of the command line.
        alter: changes the makers: how a planted defect gets in, to see whether the checker would notice.
    """
    parser = argparse.ArgumentParser(description="The process of `up`, for the chaos harness.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kill-at", metavar="POINT:N", default="")
    parser.add_argument("--after-ms", type=int, default=0)
    parser.add_argument("--in-flight-min", type=int, default=50)
    parser.add_argument("--witness", type=Path, default=None, help="the witness's counts")
    parser.add_argument("--rebuild", action="store_true")
    given = parser.parse_args(arguments)
    point, _, passages = given.kill_at.partition(":")
    beside = given.data.absolute().parent
    trap = Trap(
        Point(point) if point else None,
        int(passages or 1),
        given.after_ms,
        given.in_flight_min,
        beside / NOTE_FILE,
    )
    if given.witness is not None:
        counts = SharedCounts(given.witness)
        trap.unanswered = lambda: counts.read().in_flight
    makers = watched(trap, HeldPage(beside / PAGE_FILE))
    configure_logging("info")

    def announce(ready: Ready) -> None:
        line = VictimReady(ready.url, ready.admin_key, ready.started_ms, ready.slot_plan.slots)
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stdout.flush()
        trap.arm()

    flags = (
        Flag("data", "--data", str(given.data)),
        Flag("api.port", "--port", 0),
        Flag("egress.allow_private_networks", "--allow-private", value=True),
    )
    audience = Audience(announce, lambda: None, complain)
    try:
        return run_embedded(
            load_settings(flags),
            audience,
            rebuild=given.rebuild,
            makers=makers if alter is None else alter(makers),
        )
    except HooktideError as error:
        complain(str(error))
        return code_of_start(error)


if __name__ == "__main__":
    code = run_victim(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # as `up` does
