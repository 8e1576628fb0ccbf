"""Commands to a shard: they travel in `deliveries`, so that work and commands have one order."""

from enum import StrEnum

from msgspec import Struct


class CommandKind(StrEnum):
    """What a person may ask of a delivery. Breaker commands join with the breaker."""

    CANCEL = "cancel"
    RETRY_NOW = "retry_now"


class Command(Struct, frozen=True, array_like=True, gc=False):
    """One wish about one delivery; conditional, so that a stale one is ignored.

    Attributes:
        attempt_count: `retry_now` counts only while the delivery has exactly this many attempts. Ignored by
            `cancel`.
    """

    kind: CommandKind
    delivery_id: str
    endpoint_id: str
    actor: str
    attempt_count: int = 0
