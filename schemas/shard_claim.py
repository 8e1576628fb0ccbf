"""A claim on a shard: the value of a record of `shards`. The claim's epoch is its own offset there."""

from msgspec import Struct


class ShardClaim(Struct, frozen=True, array_like=True):
    """Which store owns a shard. A release leaves the record with `is_released`."""

    shard: int
    store_id: str
    claimed_at_ms: int
    is_released: bool = False
