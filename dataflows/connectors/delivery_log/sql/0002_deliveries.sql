-- One row per delivery, written when it was fanned out, so that pending and held ones can be listed and replayed.
-- `partition` is the shard. A fan-out that was done twice collapses into the first row, see 0001_events.sql.
CREATE TABLE IF NOT EXISTS deliveries
(
    tenant_id   LowCardinality(String),
    delivery_id String,
    event_id    String,
    endpoint_id LowCardinality(String),
    event_type  LowCardinality(String),
    replay_id   LowCardinality(String),
    created_at  DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    partition   UInt32,
    offset      UInt64 CODEC(Delta, ZSTD(1)),
    precedence  UInt64 MATERIALIZED bitNot(toUInt64(toUnixTimestamp64Milli(created_at))) CODEC(Delta, ZSTD(1)),
    INDEX event_id event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX delivery_id delivery_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX stamp (partition, offset) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(precedence)
PARTITION BY toYYYYMM(created_at)
ORDER BY (tenant_id, event_id, delivery_id)
TTL toDateTime(created_at) + INTERVAL 90 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
