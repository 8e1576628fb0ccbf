"""Single requests of the API's own, through the one way out: a `Sender` with the egress guard.

The port works in blocks and has no futures, because deliveries need neither. A verification is rare and a
person waits for it, so its outcome is polled for while one is on its way.
"""

import asyncio
from itertools import count
from typing import Final

from msgspec.structs import replace

from dataflows.connectors.sender.port import Sender
from schemas.errors import Unavailable
from schemas.outcome import Outcome, PreparedRequest

_POLL_S: Final = 0.01
_TOKEN: Final = -1  # no shard has this number


class Probes:
    """Belongs to one event loop.

    Args:
        sender: nobody else's; whoever opened it closes it.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._numbers = count(1)
        self._outcomes: dict[int, Outcome] = {}
        self._waiting: set[int] = set()

    async def send(self, request: PreparedRequest) -> Outcome:
        """Sends one request and waits for what comes of it; its own timeout bounds that.

        Raises:
            Unavailable: the sender has ended.
        """
        number = next(self._numbers)
        self._waiting.add(number)
        try:
            self._sender.submit([replace(request, token=(_TOKEN, number))])
            while number not in self._outcomes:
                for outcome in self._sender.collect():
                    if outcome.token[1] in self._waiting:  # else its caller has gone
                        self._outcomes[outcome.token[1]] = outcome
                if number not in self._outcomes:
                    if not self._sender.is_alive:
                        raise Unavailable("the sender of verifications has ended; the process is stopping")
                    await asyncio.sleep(_POLL_S)
            return self._outcomes[number]
        finally:
            self._waiting.discard(number)
            self._outcomes.pop(number, None)
