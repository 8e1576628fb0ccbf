"""The command `doctor`: what would keep `up` from working here, before it is started."""

import sys
from typing import Annotated

import typer

from deploy.cli.asking import JsonOption, sentences
from deploy.cli.up import ConfigOption, DataOption

app = typer.Typer()


@app.command()
def doctor(
    data: DataOption = None,
    config: ConfigOption = None,
    *,
    tls_to: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="Also make a TLS connection to this host, port 443; off by default."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at this machine: Python, clock, disk, ports, limits; exit code 1 when `up` would not work."""
    from rich.text import Text  # noqa: PLC0415 - `--help` need not wait for it

    from deploy.cli.output import cell, make_console, print_json  # noqa: PLC0415
    from deploy.doctor.examination import examine  # noqa: PLC0415
    from deploy.doctor.finding import Level  # noqa: PLC0415
    from deploy.process.exit_codes import ExitCode  # noqa: PLC0415
    from deploy.process.load_settings import Flag, load_settings  # noqa: PLC0415

    with sentences():
        settings = load_settings((Flag("data", "--data", data),), config)
    findings = examine(settings, tls_to)
    failed = [one for one in findings if one.level is Level.FAILED]
    if as_json:
        print_json(
            {
                "ok": not failed,
                "findings": [
                    {"name": one.name, "level": one.level, "what": one.what, "advice": one.advice}
                    for one in findings
                ],
            }
        )
    else:
        console = make_console()
        for one in findings:
            level = cell(one.level.value)
            level.pad_right(9 - len(level))
            console.print(Text.assemble(level, cell(f"{one.name:<13}{one.what}")), soft_wrap=True)
            if one.advice:
                console.print(f"{'':22}-> {one.advice}", soft_wrap=True, markup=False)
        warned = sum(one.level is Level.WARNING for one in findings)
        sys.stdout.write(
            f"\n{len(failed)} to mend before `up` works, {warned} to know of.\n"
            if failed or warned
            else "\nEverything is as it should be.\n"
        )
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.OK)
