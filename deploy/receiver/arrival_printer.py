"""Arrivals as a person reads them in a terminal: a line that says whether to believe it, then the body.

What arrives is foreign text. Control characters are shown, not sent to the terminal, and `rich` markup in
it is not interpreted.
"""

import json
from base64 import b64encode
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from deploy.receiver.arrival import UNCHECKED, Arrival
from deploy.receiver.visible_text import json_text, visible
from operators.signing import Verdict

BODY_CHARS_MAX: Final = 2_000

_SENTENCES: Final = {
    Verdict.OK: "signature ok",
    Verdict.MISSING_HEADER: "not signed: a webhook-* header is missing",
    Verdict.MALFORMED: "signature headers cannot be read",
    Verdict.TOO_OLD: "signed more than 5 minutes ago",
    Verdict.TOO_NEW: "signed more than 5 minutes in the future",
    Verdict.BAD_SIGNATURE: "SIGNATURE DOES NOT MATCH: wrong secret, or the body was changed",
    UNCHECKED: "signature not checked: no --secret given",
}
_COLOURS: Final = {Verdict.OK: "green", UNCHECKED: "yellow"}


def print_arrival(arrival: Arrival, console: Console, *, show_body: bool = True) -> None:
    """Prints one arrival."""
    at = datetime.fromtimestamp(arrival.received_at_ns / 1e9, UTC).astimezone()
    verdict = arrival.verdict
    answered = "left hanging" if arrival.status is None else f"answered {arrival.status}"
    line = Text(f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}  ")
    line.append(f"#{arrival.number} {visible(arrival.path)}  ", style="bold")
    line.append(_SENTENCES.get(verdict, verdict), style=_COLOURS.get(verdict, "red"))
    line.append(
        f"  {visible(arrival.webhook_id) or 'no webhook-id'}  {len(arrival.body)} B  {answered}", style="dim"
    )
    console.print(line, soft_wrap=True, highlight=False)
    if show_body and arrival.body:
        console.print(escape(_body_text(arrival.body)), soft_wrap=True)


def _body_text(body: bytes) -> str:
    """Returns the body indented when it is JSON, as text otherwise, cut to a screenful."""
    try:
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
    if len(text) > BODY_CHARS_MAX:
        text = f"{text[:BODY_CHARS_MAX]}\n... {len(text) - BODY_CHARS_MAX} characters more"
    return "\n".join(visible(part) for part in text.split("\n"))


def json_line(arrival: Arrival) -> str:
    """Returns an arrival as one line of JSON; a body that is no text in base64, see `body_encoding`."""
    try:
        body, encoding = arrival.body.decode(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = b64encode(arrival.body).decode("ascii"), "base64"
    document = {
        "received_at": datetime.fromtimestamp(arrival.received_at_ns / 1e9, UTC).isoformat(
            timespec="milliseconds"
        ),
        "number": arrival.number,
        "path": arrival.path,
        "webhook_id": arrival.webhook_id,
        "verdict": arrival.verdict,
        "status": arrival.status,
        "headers": arrival.headers,
        "body": body,
        "body_encoding": encoding,
    }
    return json_text(document, indent=None)
