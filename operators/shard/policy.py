"""The numbers a shard engine runs by, passed in once; defaults and reasons stand in `schemas/settings.py`."""

from msgspec import Struct

from schemas.endpoint import DEFAULT_RETRY, RetryPolicy

DAY_MS = 86_400_000
TOO_OLD_MS = 7 * DAY_MS
"""An unknown delivery whose event is further behind is a dead letter: `seen` may have forgotten it."""
SEEN_MS = 11 * DAY_MS
"""7 d + window + 24 h: how far back `seen` reaches, in the events' record time."""
GENERATION_MS = 4 * DAY_MS
"""Length of one `seen` generation: few enough that a look-up asks three or four bloom filters."""
CLOCK_LEAD_MS = DAY_MS
"""How far a record's time may lie ahead of our clock and still count as the newest."""
LATE_GRACE_MS = 60_000
"""An attempt that was due inside the window may start this much after its end, when slots were short."""


class ShardPolicy(Struct, frozen=True):
    """Limits and defaults of one shard engine.

    Attributes:
        retry: for endpoints without a schedule of their own.
        unsaved_max: deliveries in memory only; above it they are written at once.
        live_max, live_bytes_max: what is held in memory at all.
        endpoint_live_max: per endpoint and lane.
        endpoint_in_flight_max: the simple cap that the isolation work replaces.
        refill_max: rows read back at once.
        due_horizon_ms: how far ahead timers stand in memory.
    """

    retry: RetryPolicy = DEFAULT_RETRY
    unsaved_max: int = 20_000
    live_max: int = 50_000
    live_bytes_max: int = 64 << 20
    endpoint_live_max: int = 256
    endpoint_in_flight_max: int = 64
    refill_max: int = 128
    due_horizon_ms: int = 5_000
    due_block_max: int = 2_000
