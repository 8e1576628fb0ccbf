"""Who owns a shard: the records of `shards`, folded in the order of the log.

Two processes may claim a shard at the same time, and the log takes both records. So each says after which
record it was written (`after`), and only the first one after that counts: a compare-and-set, decided by the
log's order, which everybody reads alike.

Compaction drops records, so "the one after which it was written" may be gone when somebody reads later. It
is not needed. Claims that count form a chain (each names the offset of the one before it), and one that lost
names a place in the chain that was taken already. So of all records the one that counts last has the highest
`after`, and among equals it came first. That takes one comparison, and needs no record that was dropped.

Rejected: one key per shard (compaction would keep the loser that came last, and drop the winner); a lease
with a time (a process that was stopped for a minute would find itself dispossessed, and clocks would count).
"""

from typing import NamedTuple

from schemas.shard_claim import NOBODY, UNSAID, ShardClaim


class Owner(NamedTuple):
    """The record that counts. Its offset is the owner's epoch."""

    offset: int
    claim: ShardClaim


Owners = dict[int, Owner]
"""By shard."""


def fold(owners: Owners, offset: int, claim: ShardClaim) -> bool:
    """Takes the next record of the log into `owners`; returns whether it counts."""
    last = owners.get(claim.shard)
    if last is not None and claim.after <= last.claim.after and not _is_unsaid(last.claim, claim):
        return False
    owners[claim.shard] = Owner(offset, claim)
    return True


def next_claim(
    owners: Owners, shard: int, store_id: str, now_ms: int, *, is_released: bool = False
) -> ShardClaim:
    """Returns the record that claims (or releases) a shard, unless somebody else comes first."""
    last = owners.get(shard)
    after = NOBODY if last is None else last.offset
    return ShardClaim(shard, store_id, now_ms, is_released, after)


def foreign_owner(owners: Owners, shard: int, store_id: str) -> Owner | None:
    """Returns the owner when it is another store that has not released the shard; else the shard is free."""
    owner = owners.get(shard)
    if owner is None or owner.claim.is_released or owner.claim.store_id == store_id:
        return None
    return owner


def _is_unsaid(last: ShardClaim, claim: ShardClaim) -> bool:
    """Format 1 did not say `after`: there the last one counted."""
    return last.after == claim.after == UNSAID
