-- One row per dead letter, with the body that was not delivered. `name` is the delivery id, or the delivery id with the
-- position of the record where the delivery itself is fine (`too_old`, `idempotency_conflict`).
CREATE TABLE IF NOT EXISTS dead_letters
(
    tenant_id       LowCardinality(String),
    delivery_id     String,
    name            String,
    event_id        String,
    endpoint_id     LowCardinality(String),
    event_type      LowCardinality(String),
    replay_id       LowCardinality(String),
    reason          LowCardinality(String),
    at              DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    attempt_count   UInt32,
    last_status     Nullable(UInt16),
    last_error_code LowCardinality(String),
    body            String CODEC(ZSTD(1)),
    partition       UInt32,
    epoch           UInt64 CODEC(Delta, ZSTD(1)),
    sequence        UInt64 CODEC(Delta, ZSTD(1)),
    INDEX delivery_id delivery_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX event_id event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX stamp (partition, epoch, sequence) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (tenant_id, at, name)
TTL toDateTime(at) + INTERVAL 30 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
