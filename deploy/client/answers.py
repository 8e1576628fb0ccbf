"""What the commands read of the API's answers: the members they show or judge by, and no others.

Tolerant on purpose: unknown members are ignored, and all but the ids have defaults, so that a command goes
on working with a server that is a little older or newer. `--json` prints the answer itself, not this.
"""

from typing import Any, TypeVar

from msgspec import Struct, convert

FINAL_STATES = frozenset({"delivered", "dead_lettered", "cancelled"})

T = TypeVar("T", bound=Struct)


class EndpointRow(Struct, frozen=True):
    """An endpoint; `secret` only in the answer that made it."""

    id: str
    tenant_id: str = ""
    url: str = ""
    event_types: tuple[str, ...] = ()
    status: str = ""
    secret: str = ""


class EventRow(Struct, frozen=True):
    """The answer to a publish."""

    id: str
    type: str = ""
    matched_endpoints: int = 0


class AttemptRow(Struct, frozen=True):
    """One recorded attempt; `total_us` is how long it took."""

    number: int
    state: str = ""
    started_at: str = ""
    status: int | None = None
    error_code: str | None = None
    error_detail: str | None = None
    total_us: int = 0
    requests_sent: int = 1


class DeliveryRow(Struct, frozen=True):
    """One delivery; `attempts` only when it was asked for by its id."""

    id: str
    event_id: str = ""
    endpoint_id: str = ""
    event_type: str = ""
    state: str = ""
    reason: str | None = None
    attempt_count: int = 0
    next_attempt_at: str | None = None
    created_at: str = ""
    updated_at: str = ""
    last_status: int | None = None
    last_error_code: str | None = None
    attempts: tuple[AttemptRow, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state in FINAL_STATES


def row(kind: type[T], document: dict[str, Any]) -> T:
    """Returns what the commands read of an answer."""
    return convert(document, kind, strict=False)
