"""How a receiver answers on one path: the script of a good, bad or slow endpoint.

Which requests fail is decided by counting and by hashing the `webhook-id`, never by chance: the same
traffic meets the same failures, so a test that fails can be run again.
"""

from typing import Final
from zlib import crc32

from msgspec import Struct

_HASHES: Final = 1 << 32


class Behaviour(Struct, frozen=True, kw_only=True):
    """What happens to a request.

    Attributes:
        status: of a good answer.
        fail_first: how many requests of each `webhook-id` fail before one succeeds.
        fail_rate: of all others, the share that fails, 0 to 1.
        fail_status: of a failure.
        retry_after: value of that header on failures: seconds or a date.
        delay_s: before any answer.
        hang: no answer at all; the connection stays open.
        headers: added to every answer.
        body: of every answer.
    """

    status: int = 200
    fail_first: int = 0
    fail_rate: float = 0.0
    fail_status: int = 500
    retry_after: str = ""
    delay_s: float = 0.0
    hang: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Answer(Struct, frozen=True):
    """What a behaviour came to for one request; `status` None leaves it hanging."""

    status: int | None
    headers: tuple[tuple[str, str], ...]
    body: bytes


def decide(behaviour: Behaviour, webhook_id: str, number: int) -> Answer:
    """Decides on one request.

    Args:
        number: how often this `webhook-id` has come to this path, this time included.
    """
    if behaviour.hang:
        return Answer(None, (), b"")
    if not is_failure(behaviour, webhook_id, number):
        return Answer(behaviour.status, behaviour.headers, behaviour.body)
    retry_after = (("retry-after", behaviour.retry_after),) if behaviour.retry_after else ()
    return Answer(behaviour.fail_status, (*behaviour.headers, *retry_after), behaviour.body)


def is_failure(behaviour: Behaviour, webhook_id: str, number: int) -> bool:
    """Says whether a request is one of those that fail; arguments as of `decide`."""
    share = crc32(f"{webhook_id}/{number}".encode()) / _HASHES
    return behaviour.hang or number <= behaviour.fail_first or share < behaviour.fail_rate
