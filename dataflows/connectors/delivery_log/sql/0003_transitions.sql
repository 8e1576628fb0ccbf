-- One row per change of a delivery's state; the last one, by (epoch, sequence), is the delivery's state.
-- (epoch, sequence) is the outbox stamp: together with the partition it names the row for ever.
CREATE TABLE IF NOT EXISTS transitions
(
    tenant_id       LowCardinality(String),
    delivery_id     String,
    event_id        String,
    endpoint_id     LowCardinality(String),
    event_type      LowCardinality(String),
    state           LowCardinality(String),
    reason          LowCardinality(String),
    attempt_count   UInt32,
    schedule_step   UInt32,
    next_attempt_at Nullable(DateTime64(3, 'UTC')),
    at              DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    actor           LowCardinality(String),
    partition       UInt32,
    epoch           UInt64 CODEC(Delta, ZSTD(1)),
    sequence        UInt64 CODEC(Delta, ZSTD(1)),
    INDEX delivery_id delivery_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX stamp (partition, epoch, sequence) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (tenant_id, delivery_id, epoch, sequence)
TTL toDateTime(at) + INTERVAL 90 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
