"""The command `tail`: follows deliveries as their states change.

The list of deliveries is asked once a second for its newest page; unfinished ones that have left it are
asked for one by one, so that a retry after an hour is still seen.
"""

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from deploy.cli.asking import Asking, asks_the_api

if TYPE_CHECKING:
    from rich.text import Text

    from deploy.client.api import Document, HooktideApi

app = typer.Typer()

POLL_S: Final = 1.0
ASKED_SINGLY_MAX: Final = 20
FOLLOWED_MAX: Final = 10_000
PATH: Final = "/deliveries"


@app.command()
@asks_the_api
def tail(
    here: Asking,
    *,
    endpoint: Annotated[str | None, typer.Option(metavar="ID", help="Only to this endpoint.")] = None,
    state: Annotated[str | None, typer.Option(help="Only changes to this state.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Of the past, first.")] = 10,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many lines.")] = None,
) -> None:
    """Follow deliveries as they happen; Ctrl-C ends it."""
    from deploy.cli.output import print_json_line, print_line  # noqa: PLC0415 - `--help` need not wait for it

    follower = Follower(here.api, endpoint, state)
    printed = 0
    try:
        changes = follower.changes()[-lines:] if lines else follower.changes()[:0]
        while True:
            for document in changes:
                if here.as_json:
                    print_json_line(document)
                else:
                    print_line(_line(document))
                printed += 1
                if printed == count:
                    return
            time.sleep(POLL_S)
            changes = follower.changes()
    except KeyboardInterrupt:
        return


class Follower:
    """Finds what has changed since it was asked last.

    Args:
        endpoint, state: what is let through; None: everything.
    """

    def __init__(self, api: "HooktideApi", endpoint: str | None = None, state: str | None = None) -> None:
        self._api = api
        self._endpoint = endpoint
        self._state = state
        self._known: dict[str, tuple[str, int]] = {}
        self._waiting: dict[str, None] = {}

    def changes(self) -> list["Document"]:
        """Returns the deliveries whose state or attempts have changed, oldest change first."""
        from deploy.client.answers import FINAL_STATES  # noqa: PLC0415
        from deploy.client.api import PAGE_MAX, one  # noqa: PLC0415
        from deploy.client.failures import ApiRefusal  # noqa: PLC0415

        page = self._api.get(PATH, endpoint_id=self._endpoint, limit=PAGE_MAX)["data"]
        listed = {str(document["id"]) for document in page}
        for delivery_id in [name for name in self._waiting if name not in listed][:ASKED_SINGLY_MAX]:
            del self._waiting[delivery_id]  # back at the end, when it still waits: everyone has a turn
            try:
                page.append(self._api.get(one(PATH, delivery_id)))
            except ApiRefusal as refusal:
                if refusal.status != 404:
                    raise
        changed = []
        for document in page:
            delivery_id, state = str(document["id"]), str(document["state"])
            if state in FINAL_STATES:
                self._waiting.pop(delivery_id, None)
            else:
                self._waiting[delivery_id] = None
            now = (state, int(document["attempt_count"]))
            if self._known.get(delivery_id) != now:
                self._known[delivery_id] = now
                changed.append(document)
        for forgotten in list(self._known)[: max(0, len(self._known) - FOLLOWED_MAX)]:
            del self._known[forgotten]
            self._waiting.pop(forgotten, None)
        changed.sort(key=lambda document: str(document.get("updated_at")))
        return [document for document in changed if self._state in (None, document["state"])]


def _line(document: "Document") -> "Text":
    from rich.text import Text  # noqa: PLC0415

    from deploy.cli.deliveries import story  # noqa: PLC0415
    from deploy.cli.output import cell  # noqa: PLC0415
    from deploy.cli.times import clock_time  # noqa: PLC0415
    from deploy.client.answers import DeliveryRow, row  # noqa: PLC0415
    from deploy.receiver.visible_text import visible  # noqa: PLC0415

    one = row(DeliveryRow, document)
    tries = f"{one.attempt_count} attempt{'' if one.attempt_count == 1 else 's'}"
    state = cell(one.state)
    state.pad_right(max(0, 13 - len(state)))
    what = f"  {one.event_type}  {one.id}  {one.endpoint_id}  "
    told = ", ".join(filter(None, [tries, story(one)]))
    return Text.assemble(clock_time(one.updated_at), "  ", state, visible(what), visible(told))
