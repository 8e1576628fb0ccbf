"""A dead letter: a delivery that ended without success, with its body and the reason."""

from msgspec import Struct

from schemas.delivery import Delivery
from schemas.outcome import ErrorCode
from schemas.transition import Reason, RowStamp


class DeadLetterKey(Struct, frozen=True, array_like=True, gc=False):
    """The key of a dead letter: the delivery, and for some reasons its event's position too.

    Attributes:
        name: the delivery id, or `<delivery id>@<partition>.<offset>`, so that a delivered delivery stays
            delivered.
    """

    name: str
    stamp: RowStamp


class DeadLetter(Struct, frozen=True, array_like=True, gc=False):
    """What is kept of it: all that is needed to look at it and to replay it."""

    delivery: Delivery
    offset: int
    reason: Reason
    at_ms: int
    attempt_count: int
    last_status: int | None
    last_error_code: ErrorCode


class Rejected(Struct, frozen=True, array_like=True, gc=False):
    """A record that could not be read: kept as it came, with its position and why."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None
    at_ms: int
