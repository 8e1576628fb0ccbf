"""The command `chaos`: load, faults, and a checker that reads the witness's file."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_HELP = """Break Hooktide on purpose, and check that it kept its promises.

Starts a process over a directory of its own, publishes to it over the REST API, receives with a witness in a
third process, injects the scenario's faults round by round, and at the end checks what the witness, the
topics, the stores and the delivery log say. Everything binds 127.0.0.1.

Exit codes: 0 ok, 1 violated, 4 unknown (something is missing, or the load was too small to say anything; it
fails a build too). What was not ok is kept, with its history, and the command that repeats it is printed.

Scenarios: kills (SIGKILL under 1,000 deliveries/s, every second one at a named code point), stops,
slow-stops, pauses, mixed (all of them, with receivers that fail).

Nightly: `./hooktide chaos --scenario kills --kills 1000 --json` takes about two hours. It runs in parts of 50
kills over fresh directories, so that the disk holds one part (about 1 GB) at a time.
"""


@app.command(help="\n\n".join(" ".join(part.split()) for part in _HELP.split("\n\n")))
def chaos(
    scenario: Annotated[str, typer.Option("--scenario", help="Which faults, under which load.")] = "kills",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all chance: times, points, failures.")] = 1,
    duration: Annotated[
        float | None, typer.Option("--duration", min=1, metavar="SECONDS", help="No round begins after it.")
    ] = None,
    kills: Annotated[
        int | None,
        typer.Option("--kills", "--rounds", min=1, help="How many rounds, one fault each; the scenario's."),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep everything there, also of an ok run.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a part.")] = False,
) -> None:
    """Break it on purpose; the help text stands above."""
    import sys  # noqa: PLC0415 - `--help` need not wait for what follows

    import msgspec  # noqa: PLC0415

    from deploy.chaos.run import CODES, PartResult, describe, run_chaos  # noqa: PLC0415
    from deploy.chaos.scenarios import SCENARIOS  # noqa: PLC0415

    if scenario not in SCENARIOS:
        raise typer.BadParameter(f"there is no scenario {scenario}; there are {', '.join(SCENARIOS)}")

    def tell(result: PartResult) -> None:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n" if as_json else describe(result))
        sys.stdout.flush()

    verdict = run_chaos(SCENARIOS[scenario], seed, rounds=kills, duration_s=duration, keep=keep, on_part=tell)
    raise typer.Exit(CODES[verdict])
