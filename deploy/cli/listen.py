"""The command `listen`: a receiver on loopback that verifies signatures and prints what arrives."""

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
    fail_rate: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="Answer 500 to this share of requests.")
    ] = 0.0,
    forward_to: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Hand requests on to your application, and its answer back."),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print each arrival as a line of JSON.")] = False,
) -> None:
    """Receive webhooks on this machine, verify their signatures and print them."""
    import asyncio  # noqa: PLC0415 - `--help` need not wait for a web server

    from deploy.receiver.behaviour import Behaviour  # noqa: PLC0415
    from deploy.receiver.listening import listen_until_stopped  # noqa: PLC0415

    behaviour = Behaviour(status=status, delay_s=delay, fail_first=fail_first, fail_rate=fail_rate)
    listening = listen_until_stopped(port, secret or (), behaviour, forward_to, as_json=as_json)
    raise typer.Exit(asyncio.run(listening))
