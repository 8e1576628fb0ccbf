"""What `up` says when it is ready: where everything is, and commands to copy that show it working."""

from shlex import quote

from msgspec import Struct

from deploy.process.descriptors import SlotPlan
from schemas.settings import Settings

_TERMINAL_ONLY = "(shown this once; later: {show_key})"


class Ready(Struct, frozen=True):
    """What whoever started the process wants to know.

    Attributes:
        url: of the API, without a path.
        data: the data directory.
        is_key_new: whether the admin key was made just now.
        started_ms: how long it took.
    """

    url: str
    data: str
    admin_key: str
    is_key_new: bool
    slot_plan: SlotPlan
    started_ms: int


def greeting(ready: Ready, settings: Settings, *, is_terminal: bool) -> str:
    """Returns the text. The admin key is in it once, for a person: never where it would end in a file."""
    show_key = "./hooktide key show"
    if settings.data != Settings().data:
        show_key += f" --data {quote(ready.data)}"
    shows_key = ready.is_key_new and is_terminal
    key = f"{ready.admin_key}  {_TERMINAL_ONLY.format(show_key=show_key)}" if shows_key else show_key
    plan = ready.slot_plan
    lowered = f", lowered to what {plan.descriptor_limit} file descriptors allow" if plan.is_lowered else ""
    allows_private = settings.egress.allow_private_networks
    target = "http://127.0.0.1:8401/hooks" if allows_private else "https://example.com/hooks"
    endpoint = f'{{"tenant_id": "acme", "url": "{target}", "event_types": ["*"], "verification": "skip"}}'
    event = '{"tenant_id": "acme", "type": "order.created", "data": {"order": 1}}'
    listen = ["  ./hooktide listen &"] if allows_private else []
    return "\n".join(
        [
            f"Hooktide is ready after {ready.started_ms / 1_000:.1f} s; Ctrl-C stops it gracefully.",
            "",
            f"  API        {ready.url}/api/v1/",
            f"  Admin key  {key}",
            f"  Data       {ready.data}",
            f"  Requests   {plan.slots} at once{lowered}",
            f"  Delivers   {'also to private addresses' if allows_private else 'to public addresses only'}",
            "",
            "Try it, in another terminal:",
            "",
            *listen,
            f"  KEY=$({show_key})",
            *_curl(f"{ready.url}/api/v1/webhooks/endpoints", endpoint),
            *_curl(f"{ready.url}/api/v1/events", event),
            "",
            "",
        ]
    )


def _curl(url: str, body: str) -> list[str]:
    return [
        f'  curl {url} -H "Authorization: Bearer $KEY" \\',
        f"    -H 'Content-Type: application/json' -d '{body}'",
    ]
