"""The delivery log (ClickHouse): its port and its implementations."""
