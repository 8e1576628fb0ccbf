"""The command `listen`: a receiver on loopback that verifies signatures and prints what arrives."""

import asyncio
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def listen(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="On loopback; 0 takes a free one.")] = 8401,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="WHSEC", help="Verify with this secret, as the API returned it; repeatable."),
    ] = None,
    status: Annotated[int, typer.Option(min=200, max=599, help="What to answer.")] = 200,
    delay: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait before.")] = 0.0,
    fail_first: Annotated[
        int, typer.Option(min=0, metavar="N", help="Answer 500 to the first N requests of each event.")
    ] = 0,
) -> None:
    """Receive webhooks on this machine, verify their signatures and print them."""
    from deploy.receiver.behaviour import Behaviour  # noqa: PLC0415 - `--help` need not wait for a web server
    from deploy.receiver.listening import listen_until_stopped  # noqa: PLC0415

    behaviour = Behaviour(status=status, delay_s=delay, fail_first=fail_first)
    raise typer.Exit(asyncio.run(listen_until_stopped(port, secret or (), behaviour)))
