"""The command `bench`: what each stage costs, in CPU per event."""

from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def bench(
    stages: Annotated[
        list[str] | None,
        typer.Argument(
            help="engine, store, sender, route, deliver, record, api, whole, growth; most unless given."
        ),
    ] = None,
    *,
    count: Annotated[int | None, typer.Option("--count", min=1_000, help="Events per stage.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure CPU per event of each stage, on this machine, now."""
    from deploy.bench.suite import run_suite  # noqa: PLC0415 - `--help` need not wait for ClickHouse

    raise typer.Exit(run_suite(stages or [], count, as_json=as_json))
