"""The command `trigger`: publishes an event."""

import sys
from typing import Annotated

import typer

from deploy.cli.asking import Asking, asks_the_api
from schemas.errors import BadInput

app = typer.Typer()


@app.command()
@asks_the_api
def trigger(
    here: Asking,
    event_type: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", help="Of the event: order.created.")
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="JSON", help="JSON, a file with it, or - for stdin; {}."),
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A real payload of GitHub's: push, issues, pull_request.opened."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key", "-k", metavar="TEXT", help="Names the event: a repeat is the same."
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="ID", help="Only to this one, whatever it subscribed to.")
    ] = None,
) -> None:
    """Publish an event, and say how many endpoints it goes to."""
    from deploy.cli.given_json import json_given  # noqa: PLC0415 - `--help` need not wait for it
    from deploy.cli.output import print_fields, print_json  # noqa: PLC0415
    from deploy.client.answers import EventRow, row  # noqa: PLC0415
    from deploy.payloads.samples import find_sample  # noqa: PLC0415

    if sample is not None and data is not None:
        raise BadInput("--sample brings its own content: leave one of the two out")
    content = b"{}" if data is None else json_given(data, "--data")
    if sample is not None:
        found = find_sample(sample)
        event_type, content = event_type or found.type, found.data
    if event_type is None:
        raise BadInput("say the type of the event, as in `./hooktide trigger order.created`, or a --sample")
    document = here.api.publish(event_type, content, key=idempotency_key, endpoint=endpoint)
    if here.as_json:
        print_json(document)
        return
    event = row(EventRow, document)
    print_fields([("event", event.id), ("type", event.type), ("endpoints", str(event.matched_endpoints))])
    if event.matched_endpoints:
        sys.stdout.write(f"`./hooktide deliveries {event.id}` says what becomes of it.\n")
    else:
        whose = f" of tenant {here.api.tenant}" if here.api.tenant else ""
        sys.stdout.write(f"No endpoint{whose} takes this type; `./hooktide endpoints list` shows them.\n")
