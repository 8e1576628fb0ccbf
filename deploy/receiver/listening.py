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
from deploy.receiver.arrival_printer import print_arrival
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import Receiver
from operators.signing import decode_secret
from schemas.errors import BadInput


async def listen_until_stopped(port: int, secrets: Sequence[str], behaviour: Behaviour) -> ExitCode:
    """Receives on loopback until SIGINT or SIGTERM.

    Args:
        port: 0 takes a free one; the URL is printed.
        secrets: as the API returned them; any of them may have signed. None: signatures are not checked.
        behaviour: how requests are answered.
    """
    try:
        decoded = [decode_secret(secret) for secret in secrets]
    except BadInput as error:
        complain(f"--secret is not right: {error}")
        return ExitCode.USAGE
    console = Console(file=sys.stdout)
    receiver = Receiver(secrets=decoded, on_arrival=lambda arrival: print_arrival(arrival, console))
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
    console.print(f"Listening on {url}/ and {checks}; Ctrl-C stops.", highlight=False, soft_wrap=True)
    await stop.wait()
    await receiver.stop()
    console.print(f"{len(receiver.arrivals)} arrived.", highlight=False)
    return ExitCode.OK
