"""The topics: one table of names, partitioning, retention and reasons, which every `Log` reads."""

from enum import StrEnum

from msgspec import Struct

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Spread(StrEnum):
    """What decides the number of partitions."""

    TENANTS = "tenants"
    SHARDS = "shards"
    ONE = "one"


class Topic(Struct, frozen=True):
    """One topic.

    Attributes:
        retention_ms: None for compacted topics, which keep the last record of each key.
        key: what the record's key is.
    """

    name: str
    key: str
    spread: Spread
    retention_ms: int | None


EVENTS = Topic("events", "tenant id (only order depends on it)", Spread.TENANTS, 7 * DAY_MS)
DELIVERIES = Topic("deliveries", "delivery id", Spread.SHARDS, 4 * DAY_MS)  # window + 24 h
TRANSITIONS = Topic("transitions", "TransitionKey", Spread.SHARDS, 7 * DAY_MS)
DEAD_LETTERS = Topic("dead_letters", "DeadLetterKey", Spread.SHARDS, 30 * DAY_MS)
REJECTED = Topic("rejected", "source position", Spread.ONE, 30 * DAY_MS)
ENDPOINTS = Topic("endpoints", "endpoint id", Spread.ONE, None)
TENANTS = Topic("tenants", "tenant id", Spread.ONE, None)
KEYS = Topic("keys", "key id", Spread.ONE, None)
EVENT_TYPES = Topic("event_types", "tenant id and event type", Spread.ONE, None)
JOBS = Topic("jobs", "job id and /request or /progress", Spread.ONE, None)
SHARDS = Topic("shards", "shard and /store id", Spread.ONE, None)
ENDPOINT_STATUS = Topic("endpoint_status", "endpoint id", Spread.ONE, None)

ALL_TOPICS = (
    EVENTS,
    DELIVERIES,
    TRANSITIONS,
    DEAD_LETTERS,
    REJECTED,
    ENDPOINTS,
    TENANTS,
    KEYS,
    EVENT_TYPES,
    JOBS,
    SHARDS,
    ENDPOINT_STATUS,
)
BY_NAME = {topic.name: topic for topic in ALL_TOPICS}
