"""The shard engine: one shard's deliveries, from acceptance to their final state."""
