-- One row per accepted event: what was published, as the bytes that were accepted (a replay renders its body from them).
-- A second record of the same event (a repeated idempotency key, a rewound producer) collapses into the first one:
-- ReplacingMergeTree keeps the highest version, and `precedence` falls with the time of the record.
-- `stamp` serves the read-back of `record` at start; merged parts that cannot match are skipped whole.
CREATE TABLE IF NOT EXISTS events
(
    tenant_id       LowCardinality(String),
    event_id        String,
    type            LowCardinality(String),
    recorded_at     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    occurred_at     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    idempotency_key String CODEC(ZSTD(1)),
    data            String CODEC(ZSTD(1)),
    partition       UInt32,
    offset          UInt64 CODEC(Delta, ZSTD(1)),
    precedence      UInt64 MATERIALIZED bitNot(toUInt64(toUnixTimestamp64Milli(recorded_at))) CODEC(Delta, ZSTD(1)),
    INDEX event_id event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX stamp (partition, offset) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(precedence)
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (tenant_id, event_id)
TTL toDateTime(recorded_at) + INTERVAL 90 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
