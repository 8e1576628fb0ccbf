"""A claim on a shard: the value of a record of `shards`. The claim's epoch is its own offset there.

The topic is the one place where processes that share a log agree on who owns a shard. Its records are folded
in `operators/shard/ownership.py`; the key is `<shard>/<store id>`, so that compaction never drops an owner's
claim because somebody else's, which did not count, came after it.
"""

from msgspec import Struct

NOBODY = -1
"""`after` of a claim on a shard that nobody ever owned."""
UNSAID = -2
"""`after` of a claim of format 1, which did not say."""


class ShardClaim(Struct, frozen=True, array_like=True):
    """Which store owns a shard.

    Attributes:
        is_released: the store gives the shard away: any other may claim it.
        after: the offset of the claim or release that counted when this one was written; it counts only when
            that was still so.
    """

    shard: int
    store_id: str
    claimed_at_ms: int
    is_released: bool = False
    after: int = UNSAID
