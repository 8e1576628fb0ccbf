"""Every setting, its default and the reason for it, once. Reading TOML and the environment is `deploy`'s job.

Sections become `HOOKTIDE__SECTION__KEY` in the environment and `[section]` in the TOML file. Unknown keys are
errors: a mistyped setting that silently does nothing is worse than a refused start.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from schemas.endpoint import DEFAULT_RETRY, WINDOW_MS

Port = Annotated[int, Field(ge=0, le=65_535)]
Positive = Annotated[int, Field(ge=1)]
_DelayMs = Annotated[int, Field(ge=0, le=WINDOW_MS)]


class Section(BaseModel):
    """A group of settings; frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiSettings(Section):
    """The REST API."""

    host: str = "127.0.0.1"
    """Loopback: a key that leaks on a laptop must not be usable from the network."""
    port: Port = 8400
    """0 takes a free one and prints it."""
    append_timeout_ms: Positive = 2_000
    """How long a publish waits for the log before it answers 503 (safe to retry)."""
    idempotency_hours: Positive = 24
    """How long the same answer is given again; the event id stays the same for ever."""
    verifications_per_minute_tenant: Positive = 30
    """Registering by script is normal; a hundred requests to strangers in a minute are not."""
    verifications_per_minute_host: Positive = 60
    """Whoever asks: verifications must not become somebody's load test."""
    verification_delays_ms: Annotated[tuple[_DelayMs, ...], Field(min_length=1, max_length=20)] = (
        0,
        10_000,
        60_000,
        600_000,
        3_600_000,
    )
    """Of the policy `async`: before each try. After the last one a person asks again."""


class LogSettings(Section):
    """The log."""

    url: str = "local:"
    """`local:` keeps it in the data directory; `kafka://host:port,...` comes with the Kafka mode."""
    events_partitions: Annotated[int, Field(ge=1, le=1_024)] = 8
    """Fixed when the data directory is made."""
    shards: Annotated[int, Field(ge=1, le=1_024)] = 8
    """Partitions of `deliveries`, fixed when the data directory is made. Embedded 8, Kafka 64."""
    linger_ms: Annotated[float, Field(ge=0, le=1_000)] = 2.0
    """How long a group commit waits for company; an fsync costs 0.2-0.3 ms on a good disk."""


class EgressSettings(Section):
    """What our requests may reach, and how long they may take."""

    allow_private_networks: bool = False
    """Development only: also plain http and any port, on private addresses only."""
    connect_timeout_ms: Positive = 5_000
    timeout_ms: Annotated[int, Field(ge=100, le=60_000)] = 15_000
    """Default of an attempt. GitHub 10 s, Stripe 20 s, Svix 15 s."""
    slots: Annotated[int, Field(ge=1, le=65_536)] = 4_096
    """Requests in flight per process; lowered to what the file descriptor limit allows."""
    user_agent: str = "Hooktide/0.1 (+https://www.standardwebhooks.com)"


class RetrySettings(Section):
    """The default schedule of endpoints that have none of their own."""

    delays_ms: tuple[Positive, ...] = DEFAULT_RETRY.delays_ms
    """5 m, 30 m, 2 h, 5 h, 10 h, then every 12 h until the window ends. N delays make N + 1 attempts."""
    window_ms: Annotated[int, Field(ge=1_000, le=WINDOW_MS)] = WINDOW_MS
    """72 h: a weekend's outage is survived."""


class DeliverSettings(Section):
    """The shard engine."""

    barrier_ms: Annotated[int, Field(ge=50, le=10_000)] = 1_000
    sync_ms: Annotated[int, Field(ge=1, le=1_000)] = 20
    """A power cut repeats at most this much traffic."""
    unsaved_max: Positive = 20_000
    """Deliveries per shard that may be in memory only; above it blocks are written at once."""
    live_max: Positive = 50_000
    """Deliveries per shard held in memory at all; the rest waits in `pending`."""
    live_bytes_max: Positive = 64 << 20
    """Bytes of bodies per shard held in memory; the rest waits in `pending`."""
    endpoint_live_max: Positive = 256
    """Deliveries per endpoint and lane held in memory; the rest is read back in order of age."""
    stop_deadline_ms: Positive = 25_000
    """How long a stop waits for what is in flight; timeouts are capped at this minus 5 s."""
    outbox_bytes_max: Positive = 1 << 30
    """Unacknowledged transitions kept on disk; beyond it new attempts stop."""


class RecordSettings(Section):
    """The flow into the delivery log."""

    interval_ms: Annotated[int, Field(ge=10, le=60_000)] = 1_200
    """With the API's promise of 2 s there is room for one slow insert."""
    rows_max: Positive = 10_000


class DiskSettings(Section):
    """The disk that the data directory lies on."""

    free_bytes_min: Annotated[int, Field(ge=0)] = 512 << 20
    """Below it nothing new is taken or sent, what is in flight is written; at most a tenth of the disk."""


class Settings(Section):
    """All of it."""

    data: str = ".hooktide-data"
    master_key: str = ""
    """Base64 of 32 bytes that seal endpoint secrets; empty: made once, kept in the data directory (0600)."""
    api: ApiSettings = ApiSettings()
    log: LogSettings = LogSettings()
    egress: EgressSettings = EgressSettings()
    retry: RetrySettings = RetrySettings()
    deliver: DeliverSettings = DeliverSettings()
    record: RecordSettings = RecordSettings()
    disk: DiskSettings = DiskSettings()
