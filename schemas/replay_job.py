"""A replay job: its request (written by `manage`) and its progress (by `replay`), two keys of `jobs`."""

from enum import StrEnum

from msgspec import Struct


class ReplayStatus(StrEnum):
    """Where a replay job stands."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"


class ReplayRequest(Struct, frozen=True, omit_defaults=True):
    """What was asked: which deliveries of which tenant, and how fast."""

    id: str
    tenant_id: str
    endpoint_id: str
    from_ms: int
    to_ms: int
    rate_per_s: float
    created_at_ms: int
    actor: str


class ReplayProgress(Struct, frozen=True, omit_defaults=True):
    """How far it is: `cursor` is where the next page starts."""

    id: str
    status: ReplayStatus
    cursor: str
    written_count: int
    updated_at_ms: int
