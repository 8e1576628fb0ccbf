-- One row per recorded attempt: what was sent where, what came back, how long it took. `state` is the delivery's after it.
-- `attempt_id` is computed, never stored: it is the delivery id and the number.
CREATE TABLE IF NOT EXISTS attempts
(
    tenant_id            LowCardinality(String),
    delivery_id          String,
    event_id             String,
    endpoint_id          LowCardinality(String),
    event_type           LowCardinality(String),
    state                LowCardinality(String),
    partition            UInt32,
    epoch                UInt64 CODEC(Delta, ZSTD(1)),
    sequence             UInt64 CODEC(Delta, ZSTD(1)),
    number               UInt32,
    started_at           DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    finished_at          DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    url                  LowCardinality(String),
    status               Nullable(UInt16),
    error_code           LowCardinality(String),
    error_detail         String CODEC(ZSTD(1)),
    headers              Array(Tuple(String, String)) CODEC(ZSTD(1)),
    body                 String CODEC(ZSTD(1)),
    is_body_truncated    Bool,
    queued_us            UInt32,
    connect_us           UInt32,
    first_byte_us        UInt32,
    total_us             UInt32,
    peer                 LowCardinality(String),
    is_reused_connection Bool,
    requests_sent        UInt16,
    after_crash          Bool,
    hops                 String CODEC(ZSTD(1)),
    attempt_id           String ALIAS concat(delivery_id, '.', toString(number)),
    INDEX delivery_id delivery_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX stamp (partition, epoch, sequence) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant_id, delivery_id, number, started_at)
TTL toDateTime(started_at) + INTERVAL 90 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
