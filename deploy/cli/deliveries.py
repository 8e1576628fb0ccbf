"""The commands `deliveries ...`, `resend` and `cancel`: what became of events, and what to do about it."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from deploy.cli.asking import Asking, asks_the_api

if TYPE_CHECKING:
    from deploy.client.answers import DeliveryRow

app = typer.Typer()


class _EventShortcut(TyperGroup):
    """Takes `deliveries evt_...` for `deliveries list --event evt_...`: what people ask most often."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's context has no public name
        """Called with what follows the group's name."""
        if args and args[0].startswith("evt_"):
            args = ["list", "--event", *args]
        return super().parse_args(ctx, args)


_deliveries = typer.Typer(
    cls=_EventShortcut,
    no_args_is_help=True,
    help="Show what became of events: `deliveries EVENT_ID`, `list`, or `get` for one with its attempts.",
)
app.add_typer(_deliveries, name="deliveries")

DELIVERIES = "/deliveries"
IdArgument = Annotated[str, typer.Argument(metavar="DELIVERY_ID", help="As the API named it: dlv_...")]


@_deliveries.command("list")
@asks_the_api
def list_deliveries(
    here: Asking,
    *,
    event: Annotated[str | None, typer.Option(metavar="ID", help="Only of this event.")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="ID", help="Only to this endpoint.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only in this state: pending, retrying, held, dead_lettered, ...")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
) -> None:
    """List deliveries, newest first."""
    from deploy.cli.output import print_json, print_rows  # noqa: PLC0415 - `--help` need not wait for it
    from deploy.client.answers import DeliveryRow, row  # noqa: PLC0415
    from deploy.client.api import one  # noqa: PLC0415

    if event is not None and endpoint is None and state is None:
        found = list(here.api.pages(one("/events", event, "deliveries"), limit))
    else:
        filters = {"event_id": event, "endpoint_id": endpoint, "state": state}
        found = list(here.api.pages(DELIVERIES, limit, **filters))
    if here.as_json:
        print_json(found)
        return
    print_rows(
        ("id", "event type", "endpoint", "state", "attempts", "what happened"),
        [
            (one.id, one.event_type, one.endpoint_id, one.state, str(one.attempt_count), story(one))
            for one in (row(DeliveryRow, entry) for entry in found)
        ],
        "No deliveries: no endpoint matched the event." if event else "No deliveries.",
    )


@_deliveries.command()
@asks_the_api
def get(here: Asking, delivery_id: IdArgument) -> None:
    """Show one delivery with every recorded attempt."""
    from deploy.cli.output import print_fields, print_json, print_rows  # noqa: PLC0415
    from deploy.cli.times import clock_time  # noqa: PLC0415
    from deploy.client.answers import DeliveryRow, row  # noqa: PLC0415
    from deploy.client.api import one  # noqa: PLC0415

    document = here.api.get(one(DELIVERIES, delivery_id))
    if here.as_json:
        print_json(document)
        return
    delivery = row(DeliveryRow, document)
    print_fields(
        [
            ("id", delivery.id),
            ("event", f"{delivery.event_id} ({delivery.event_type})"),
            ("endpoint", delivery.endpoint_id),
            ("state", delivery.state),
            ("what happened", story(delivery)),
            ("created", clock_time(delivery.created_at)),
        ]
    )
    sys.stdout.write("\n")
    sys.stdout.flush()
    print_rows(
        ("attempt", "at", "answer", "took", "detail"),
        [
            (
                str(one.number),
                clock_time(one.started_at),
                str(one.status or one.error_code or "none"),
                f"{one.total_us / 1_000:.0f} ms",
                one.error_detail,
            )
            for one in delivery.attempts
        ],
        "No attempt has ended yet.",
    )


@app.command()
@asks_the_api
def resend(
    here: Asking,
    delivery_id: IdArgument,
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", "-k", metavar="TEXT", help="A repeat with it sends nothing more."),
    ] = None,
) -> None:
    """Send a delivery again now: the same body under the same webhook-id."""
    from deploy.client.api import one  # noqa: PLC0415

    answer = here.api.act(one(DELIVERIES, delivery_id, "retry"), {}, idempotency_key=idempotency_key)
    _show_answer(here, delivery_id, answer, "is sent again")


@app.command()
@asks_the_api
def cancel(here: Asking, delivery_id: IdArgument) -> None:
    """Give up a delivery that waits; it ends as cancelled."""
    from deploy.client.api import one  # noqa: PLC0415

    answer = here.api.act(one(DELIVERIES, delivery_id, "cancel"))
    _show_answer(here, delivery_id, answer, "is cancelled")


def story(delivery: "DeliveryRow") -> str:
    """Returns in a few words why a delivery is in its state, and when it goes on."""
    from deploy.cli.times import in_words  # noqa: PLC0415

    came_to = delivery.last_status or delivery.last_error_code
    parts = [str(came_to or ""), (delivery.reason or "").replace("_", " ")]
    if delivery.next_attempt_at and not delivery.is_final:
        parts.append(f"again {in_words(delivery.next_attempt_at)}")
    return ", ".join(filter(None, parts))


def _show_answer(here: Asking, delivery_id: str, answer: dict[str, object], verb: str) -> None:
    from deploy.cli.output import print_json  # noqa: PLC0415

    if here.as_json:
        print_json(answer)
        return
    made = str(answer.get("delivery_id") or answer.get("id") or delivery_id)
    as_what = f" as {made}" if made != delivery_id else ""
    sys.stdout.write(f"{delivery_id} {verb}{as_what}; `./hooktide deliveries get {made}` shows it.\n")
