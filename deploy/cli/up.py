"""The command `up`: the whole of Hooktide in one process."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings in TOML; hooktide.toml, if it is in this directory."
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="DIR", help="Where everything is kept; .hooktide-data unless set."),
]


@app.command()
def up(
    data: DataOption = None,
    port: Annotated[
        int | None,
        typer.Option("--port", help="Of the API, on loopback; 8400 unless set, 0 takes a free one."),
    ] = None,
    *,
    allow_private: Annotated[
        bool,
        typer.Option("--allow-private", help="Development: deliver to private addresses too, also by http."),
    ] = False,
    config: ConfigOption = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Take over shards whose store was lost, and rebuild it.")
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option("--log-level", help="debug, info, warning or error; warning on a terminal, else info."),
    ] = None,
) -> None:
    """Run everything in this process: API, log, delivery and delivery log."""
    from deploy.process.load_settings import Flag  # noqa: PLC0415 - `--help` need not wait for pydantic
    from deploy.process.run_up import run_up  # noqa: PLC0415

    flags = (
        Flag("data", "--data", data),
        Flag("api.port", "--port", port),
        Flag("egress.allow_private_networks", "--allow-private", allow_private or None),
    )
    code = run_up(flags, config, log_level, rebuild=rebuild)
    sys.stdout.flush()
    # Not by the interpreter's own end, which waits for threads and takes ClickHouse apart under them.
    os._exit(code)
