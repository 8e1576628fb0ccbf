"""The partitioned log: its port and its implementations."""
