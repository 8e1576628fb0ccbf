"""What `listen` does: receives until it is stopped, and prints each arrival.

A wrong secret is refused before anything arrives: afterwards it would look like a forged signature.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence

from rich.console import Console

from deploy.process.complaint import complain
from deploy.process.exit_codes import ExitCode
from deploy.receiver.arrival import Arrival
from deploy.receiver.arrival_printer import json_line, print_arrival
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import Receiver
from deploy.receiver.relay import Relay
from operators.signing import decode_secret
from schemas.errors import BadInput


async def listen_until_stopped(
    port: int,
    secrets: Sequence[str],
    behaviour: Behaviour,
    forward_to: str | None = None,
    *,
    as_json: bool = False,
) -> ExitCode:
    """Receives on loopback until SIGINT or SIGTERM.

    Args:
        port: 0 takes a free one; the URL is printed.
        secrets: as the API returned them; any of them may have signed. None: signatures are not checked.
        behaviour: how requests are answered.
        forward_to: a URL that is asked for the answer to each request that the behaviour does not fail.
        as_json: prints a line of JSON per arrival; all else goes to stderr then.
    """
    try:
        relay = None if forward_to is None else Relay(forward_to)
    except BadInput as error:
        complain(str(error))
        return ExitCode.USAGE
    try:
        decoded = [decode_secret(secret) for secret in secrets]
    except BadInput as error:
        complain(f"--secret is not right: {error}")
        return ExitCode.USAGE
    console = Console(file=sys.stderr if as_json else sys.stdout)

    def show(arrival: Arrival) -> None:
        if as_json:
            sys.stdout.write(json_line(arrival) + "\n")
            sys.stdout.flush()
        else:
            print_arrival(arrival, console)

    receiver = Receiver(secrets=decoded, on_arrival=show, relay=relay)
    receiver.behave(behaviour)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        url = await receiver.start(port)
    except OSError as error:
        await receiver.stop()
        complain(f"port {port} cannot be taken ({error.strerror or error}): name another with --port")
        return ExitCode.REFUSED
    checks = "checking signatures" if decoded else "not checking signatures (no --secret given)"
    forwards = "" if relay is None else f", forwarding to {relay.url}"
    console.print(
        f"Listening on {url}/ and {checks}{forwards}; Ctrl-C stops.", highlight=False, soft_wrap=True
    )
    await stop.wait()
    await receiver.stop()
    console.print(f"{len(receiver.arrivals)} arrived.", highlight=False)
    return ExitCode.OK
