-- As 0006_deliveries_by_time.sql, for the list of events.
ALTER TABLE events ADD INDEX IF NOT EXISTS recorded_at recorded_at TYPE minmax GRANULARITY 1
