"""The stage of the demo: three endpoints of one tenant, and the receiver behind them that counts too."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from os import urandom
from typing import Final

from msgspec import Struct

from deploy.client.answers import EndpointRow, row
from deploy.client.api import ENDPOINTS, HooktideApi, one
from deploy.receiver.arrival import Arrival
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from operators.signing import SECRET_BYTES, decode_secret, encode_secret

DELAYS_SECONDS: Final = (0.3, 0.6)
"""Two retries soon, so that what fails for good is a dead letter within the demo."""


class Part(Struct, frozen=True):
    """An endpoint's part in the demo."""

    name: str
    what: str
    behaviour: Behaviour


PARTS: Final = (
    Part("healthy", "answers 200 at once", Behaviour()),
    Part("slow", "answers 200 after half a second", Behaviour(delay_s=0.5)),
    Part("failing", "answers 500 to 3 of 4 requests", Behaviour(fail_rate=0.75)),
)


class Stage:
    """The endpoints, and what their receiver has seen.

    Args:
        receiver: started.
        miscount: how many requests it shall forget, to show that the comparison notices.

    Attributes:
        endpoints: id by part.
    """

    def __init__(self, receiver: ReceiverThread, miscount: int = 0) -> None:
        self.endpoints: dict[str, str] = {}
        self._receiver = receiver
        self._miscount = miscount

    def received(self) -> dict[tuple[str, str], list[Arrival]]:
        """Returns what the receiver has seen, by part and event, verifications too."""
        seen: dict[tuple[str, str], list[Arrival]] = defaultdict(list)
        events = [one for one in self._receiver.arrivals if not _is_verification(one)]
        for arrival in events[self._miscount :]:
            seen[arrival.path.removeprefix("/"), arrival.webhook_id].append(arrival)
        return seen

    def answered(self) -> Counter[tuple[str, bool]]:
        """Returns how many requests each part has had, by whether it was content."""
        return Counter(
            (one.path.removeprefix("/"), one.status == 200)
            for one in self._receiver.arrivals
            if not _is_verification(one)
        )


@contextmanager
def set_stage(api: HooktideApi, seed: int, miscount: int, *, is_ours: bool) -> Iterator[Stage]:
    """Starts the receiver and makes the endpoints; takes them away again unless the whole Hooktide goes.

    The tenant decides the events' ids, and those decide what fails. In a Hooktide of our own it follows
    from the seed; elsewhere each run has a new one, because keys name an event for ever.

    Raises:
        HooktideError: the API refuses them.
    """
    api.tenant = f"demo-{seed}" if is_ours else f"demo-{urandom(4).hex()}"
    with ReceiverThread() as receiver:
        stage = Stage(receiver, miscount)
        try:
            for part in PARTS:
                secret = encode_secret(urandom(SECRET_BYTES))
                receiver.trust([decode_secret(secret)], f"/{part.name}")
                document = api.create_endpoint(
                    {
                        "url": f"{receiver.url}/{part.name}",
                        "event_types": ["github.*"],
                        "secret": secret,
                        "description": f"demo: {part.what}",
                        "retry": {"delays_seconds": list(DELAYS_SECONDS)},
                    }
                )
                stage.endpoints[part.name] = row(EndpointRow, document).id
                receiver.behave(part.behaviour, f"/{part.name}")  # from now on: the verification passed
            yield stage
        finally:
            if not is_ours:
                for endpoint in stage.endpoints.values():
                    api.act(one(ENDPOINTS, endpoint), method="DELETE")


def _is_verification(arrival: Arrival) -> bool:
    return b'"endpoint.verification"' in arrival.body[:200]
