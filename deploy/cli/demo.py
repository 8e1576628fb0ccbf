"""The command `demo`: watch it work, and check that it did."""

from typing import Annotated

import typer

from deploy.cli.asking import Asking, asks_the_api

app = typer.Typer()


@app.command()
@asks_the_api
def demo(
    here: Asking,
    *,
    events: Annotated[int, typer.Option(min=1, max=10_000, help="How many are published.")] = 60,
    seed: Annotated[
        int, typer.Option(help="Chooses the payloads; with a Hooktide of its own, also what fails.")
    ] = 1,
    miscount: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Let the receivers forget N requests: the comparison must see it."
        ),
    ] = 0,
) -> None:
    """Send real payloads to a healthy, a slow and a failing endpoint, then compare both sides' counts.

    Starts everything itself, in a directory that is gone afterwards, unless --url or HOOKTIDE_URL names a
    Hooktide that runs on this machine with --allow-private. Ends with exit code 1 when the two sides differ.
    """
    from deploy.demo.run_demo import Plan, run_demo  # noqa: PLC0415 - `--help` need not wait for it

    plan = Plan(events=events, seed=seed, miscount=miscount)
    api = here.api if here.is_url_given else None
    raise typer.Exit(run_demo(plan, api, as_json=here.as_json))
