"""The commands `endpoints ...`: everything that the API can do to an endpoint."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.asking import Asking, asks_the_api
from schemas.errors import BadInput

if TYPE_CHECKING:
    from deploy.client.api import Document

app = typer.Typer()
_endpoints = typer.Typer(no_args_is_help=True, help="Make, change, pause and verify endpoints.")
app.add_typer(_endpoints, name="endpoints")

IdArgument = Annotated[str, typer.Argument(metavar="ENDPOINT_ID", help="As the API named it.")]
TypesOption = Annotated[
    list[str] | None,
    typer.Option("--type", "-t", metavar="PATTERN", help="Of events: order.created, order.*, *; repeatable."),
]
SetOption = Annotated[
    str | None,
    typer.Option(
        "--set",
        metavar="JSON",
        help="Any fields of docs/api.md: a JSON object, a file with one, or - for stdin.",
    ),
]
IfMatchOption = Annotated[
    str | None,
    typer.Option("--if-match", metavar="ETAG", help="Only while this is the endpoint's entity tag."),
]


@_endpoints.command("list")
@asks_the_api
def list_endpoints(
    here: Asking,
    *,
    status: Annotated[
        str | None, typer.Option(help="Only these: active, unverified, paused or disabled.")
    ] = None,
    event_type: Annotated[str | None, typer.Option(help="Only those that such an event goes to.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 200,
) -> None:
    """List endpoints, oldest first."""
    from deploy.cli.output import print_json, print_rows  # noqa: PLC0415 - `--help` need not wait for it
    from deploy.client.answers import EndpointRow, row  # noqa: PLC0415
    from deploy.client.api import ENDPOINTS  # noqa: PLC0415

    found = list(here.api.pages(ENDPOINTS, limit, status=status, event_type=event_type))
    if here.as_json:
        print_json(found)
        return
    rows = [row(EndpointRow, entry) for entry in found]
    print_rows(
        ("id", "tenant", "status", "event types", "url"),
        [(one.id, one.tenant_id, one.status, one.event_types, one.url) for one in rows],
        "No endpoints; `./hooktide endpoints create URL` makes one.",
    )


@_endpoints.command()
@asks_the_api
def get(here: Asking, endpoint_id: IdArgument) -> None:
    """Show one endpoint."""
    _show(here, here.api.get(_path(endpoint_id)))


@_endpoints.command()
@asks_the_api
def create(
    here: Asking,
    target: Annotated[str, typer.Argument(metavar="URL", help="Where its events go.")],
    *,
    types: TypesOption = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    secret: Annotated[
        str | None, typer.Option(metavar="WHSEC", help="One of yours; drawn unless given.")
    ] = None,
    verification: Annotated[
        str | None,
        typer.Option(help="sync asks the receiver first (the default), async soon, skip never."),
    ] = None,
    fields: SetOption = None,
) -> None:
    """Make an endpoint; its secret is shown this once."""
    given = _fields(fields, url=target, description=description, secret=secret, verification=verification)
    given["event_types"] = types or given.get("event_types") or ["*"]
    _show(here, here.api.create_endpoint(given))


@_endpoints.command()
@asks_the_api
def update(
    here: Asking,
    endpoint_id: IdArgument,
    *,
    target: Annotated[
        str | None, typer.Option("--target", metavar="URL", help="Where its events go; verified again.")
    ] = None,
    types: TypesOption = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    verification: Annotated[str | None, typer.Option(help="Of a new URL: sync, async or skip.")] = None,
    fields: SetOption = None,
    if_match: IfMatchOption = None,
) -> None:
    """Change what is given, and nothing else."""
    patch = _fields(fields, url=target, description=description, verification=verification)
    if types:
        patch["event_types"] = types
    if not patch:
        raise BadInput("say what to change: --target, --type, --description, or --set with any field")
    _show(here, here.api.act(_path(endpoint_id), patch, method="PATCH", if_match=if_match))


@_endpoints.command()
@asks_the_api
def delete(
    here: Asking,
    endpoint_id: IdArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    if_match: IfMatchOption = None,
) -> None:
    """Delete an endpoint; what waits for it is cancelled."""
    from deploy.cli.output import print_json  # noqa: PLC0415

    if not yes:
        if not sys.stdin.isatty():
            raise BadInput("deleting cannot be undone: say --yes where nobody can be asked")
        typer.confirm(f"Delete {endpoint_id}, and cancel what waits for it?", abort=True)
    here.api.act(_path(endpoint_id), method="DELETE", if_match=if_match)
    if here.as_json:
        print_json({"id": endpoint_id, "deleted": True})
    else:
        sys.stdout.write(f"{endpoint_id} is deleted.\n")


@_endpoints.command()
@asks_the_api
def pause(here: Asking, endpoint_id: IdArgument) -> None:
    """Hold its events back until it is resumed."""
    _act(here, endpoint_id, "pause")


@_endpoints.command()
@asks_the_api
def resume(here: Asking, endpoint_id: IdArgument) -> None:
    """Send what was held back, and go on."""
    _act(here, endpoint_id, "resume")


@_endpoints.command()
@asks_the_api
def enable(here: Asking, endpoint_id: IdArgument) -> None:
    """Use a disabled endpoint again."""
    _act(here, endpoint_id, "enable")


@_endpoints.command()
@asks_the_api
def disable(here: Asking, endpoint_id: IdArgument) -> None:
    """Send it nothing until it is enabled."""
    _act(here, endpoint_id, "disable")


@_endpoints.command()
@asks_the_api
def verify(here: Asking, endpoint_id: IdArgument) -> None:
    """Send its receiver a signed question, which it must answer with a 2xx."""
    _act(here, endpoint_id, "verify")


@_endpoints.command("test")
@asks_the_api
def send_test(
    here: Asking,
    endpoint_id: IdArgument,
    event_type: Annotated[str | None, typer.Option("--type", help="endpoint.test unless given.")] = None,
) -> None:
    """Send it a test event, the way of every event."""
    from deploy.cli.output import print_fields, print_json  # noqa: PLC0415

    event = here.api.act(_path(endpoint_id, "test"), {"type": event_type} if event_type else None)
    if here.as_json:
        print_json(event)
        return
    print_fields([("event", event.get("id")), ("type", event.get("type"))])
    sys.stdout.write(f"`./hooktide deliveries {event.get('id')}` says what becomes of it.\n")


@_endpoints.command()
@asks_the_api
def rotate(
    here: Asking,
    endpoint_id: IdArgument,
    *,
    secret: Annotated[
        str | None, typer.Option(metavar="WHSEC", help="One of yours; drawn unless given.")
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(min=0, metavar="SECONDS", help="How long the old one signs too; a day unless given."),
    ] = None,
) -> None:
    """Give it a new secret, which is shown this once."""
    body = {"secret": secret, "overlap_seconds": overlap}
    given = {name: value for name, value in body.items() if value is not None}
    _show(here, here.api.act(_path(endpoint_id, "secret/rotate"), given))


def _act(here: Asking, endpoint_id: str, action: str) -> None:
    _show(here, here.api.act(_path(endpoint_id, action)))


def _path(endpoint_id: str, action: str = "") -> str:
    from deploy.client.api import ENDPOINTS, one  # noqa: PLC0415 - as above

    return one(ENDPOINTS, endpoint_id, action)


def _fields(given: str | None, **flags: str | None) -> dict[str, Any]:
    """Returns what `--set` holds, with the flags over it."""
    from deploy.cli.given_json import object_given  # noqa: PLC0415

    document = {} if given is None else object_given(given, "--set")
    return document | {name: value for name, value in flags.items() if value is not None}


def _show(here: Asking, endpoint: "Document") -> None:
    from deploy.cli.output import print_fields, print_json  # noqa: PLC0415
    from deploy.cli.times import clock_time  # noqa: PLC0415

    if here.as_json:
        print_json(endpoint)
        return
    verification = endpoint.get("verification") or {}
    shown = {**endpoint, "secret": None, "verification": None, "id": None}
    for name in ("created_at", "updated_at", "old_secrets_until"):
        shown[name] = clock_time(shown.get(name))
    verified = " ".join(filter(None, [verification.get("state"), verification.get("error_code")]))
    print_fields(
        [
            ("id", endpoint.get("id")),
            *((name.replace("_", " "), value) for name, value in shown.items()),
            ("verification", verified),
            ("secret", endpoint.get("secret")),
        ]
    )
    if endpoint.get("secret") and sys.stdout.isatty():
        sys.stdout.write("The secret is shown this once: keep it where the receiver reads it.\n")
