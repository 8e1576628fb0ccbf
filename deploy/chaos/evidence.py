"""From what a run left behind to a history: the witness's file, the publisher's calls, the dumps, the faults.

How much was in flight at a fault is counted here, from the witness's file: requests that this process had
sent (received since the last one ended) and that were not answered yet.
"""

import time
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from deploy.chaos.child import Child, ChildFailedError
from deploy.chaos.conduct import WITNESS_FILE, Conduct
from deploy.chaos.dump import Dumped
from deploy.chaos.witness_lines import read_arrivals
from deploy.checker.history import Arrival, End, Fault, Record, Run, Source
from deploy.checker.lines import decode_lines, encode_line
from operators.shard.policy import ShardPolicy
from schemas.endpoint import WINDOW_MS

HISTORY_FILE: Final = "history.jsonl"
_DUMP_FILE: Final = "dump.jsonl"
_DUMP_TIMEOUT_S: Final = 600.0
_CATCH_UPS_MAX: Final = 10
"""A slow machine gets so many more starts for what `record` takes in within seconds elsewhere."""


def gather(conduct: Conduct, repeat_command: str, seed: int) -> list[Record]:
    """Returns the history of a run, and writes it into the run's directory.

    A source that is not complete has no `End`: the checker then says `unknown`.
    """
    history: list[Record] = []
    witness_file = conduct.directory / WITNESS_FILE
    arrivals = list(read_arrivals(witness_file)) if witness_file.exists() else []
    seen = [one for one in arrivals if isinstance(one, Arrival)]
    conduct.faults = _with_in_flight(conduct.faults, seen)
    history.append(_run(conduct, repeat_command, seed))
    history += arrivals
    at_ns = time.monotonic_ns()
    history += [*conduct.publisher.records, End(Source.PUBLISHER, len(conduct.publisher.records), at_ns)]
    history += [*conduct.endpoints, End(Source.CONTROL, len(conduct.endpoints), at_ns)]
    history += [*conduct.faults, End(Source.INJECTOR, len(conduct.faults), at_ns)]
    history += _dumped(conduct)
    with (conduct.directory / HISTORY_FILE).open("wb") as out:
        out.writelines(map(encode_line, history))
    return history


def _dumped(conduct: Conduct) -> list[Record]:
    """Returns what the stopped process's directory holds; nothing when it cannot be opened."""
    out = conduct.directory / _DUMP_FILE
    for _ in range(_CATCH_UPS_MAX):
        if not _dump(conduct, out) or not conduct.is_drained:
            break
        conduct.catch_up()
    if not out.exists():
        return []
    with out.open("rb") as lines:
        return list(decode_lines(lines))


def _dump(conduct: Conduct, out: Path) -> int:
    """Dumps the directory; returns how much the delivery log still has to take in."""
    command = ["-m", "deploy.chaos.dump", "--data", "data", "--out", out.name]
    stderr = conduct.directory / "dump.stderr"
    dump = Child(command, conduct.directory, stderr, conduct.environment())
    try:
        dumped = msgspec.json.decode(dump.read_line(_DUMP_TIMEOUT_S), type=Dumped)
        dump.wait(30.0)
    except ChildFailedError as error:
        conduct.problems.append(f"the data directory could not be dumped: {error}")
        if dump.is_alive:
            dump.kill()
        return 0
    return dumped.unrecorded


def _with_in_flight(faults: Sequence[Fault], arrivals: Sequence[Arrival]) -> list[Fault]:
    received = [one.received_at_ns for one in arrivals]
    counted, since_ns = [], 0
    for fault in faults:
        first, last = bisect_right(received, since_ns), bisect_right(received, fault.began_at_ns)
        open_then = sum(
            1
            for one in arrivals[first:last]
            if one.answered_at_ns is None or one.answered_at_ns > fault.began_at_ns
        )
        counted.append(replace(fault, in_flight=open_then))
        since_ns = fault.ended_at_ns
    return counted


def _run(conduct: Conduct, repeat_command: str, seed: int) -> Run:
    scenario = conduct.scenario
    return Run(
        seed=seed,
        scenario=scenario.name,
        repeat_command=repeat_command,
        delays_ms=scenario.delays_ms,
        window_ms=WINDOW_MS,
        slots=conduct.slots,
        endpoint_in_flight_max=ShardPolicy().endpoint_in_flight_max,
        started_at_ns=conduct.started_at_ns,
        started_at_ms=conduct.started_at_ms,
        is_drained=conduct.is_drained,
        timeout_ms=scenario.timeout_ms,
    )
