"""Claims on shards: whatever the interleaving and whatever compaction has dropped, all readers agree."""

import random

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from operators.shard.ownership import Owner, Owners, fold, foreign_owner, next_claim
from schemas.shard_claim import NOBODY, UNSAID, ShardClaim

SHARD = 3
NOW_MS = 1_800_000_000_000


def read(records: list[tuple[int, ShardClaim]]) -> Owners:
    owners: Owners = {}
    for offset, claim in records:
        fold(owners, offset, claim)
    return owners


def test_a_shard_without_a_claim_is_free() -> None:
    assert foreign_owner({}, SHARD, "a") is None
    assert next_claim({}, SHARD, "a", NOW_MS).after == NOBODY


def test_the_first_of_two_claims_after_the_same_record_counts() -> None:
    both = [(0, next_claim({}, SHARD, "a", NOW_MS)), (1, next_claim({}, SHARD, "b", NOW_MS))]

    assert read(both)[SHARD] == Owner(*both[0])
    assert foreign_owner(read(both), SHARD, "b") == Owner(*both[0])
    assert foreign_owner(read(both), SHARD, "a") is None


def test_the_same_store_takes_over_at_once_and_another_after_a_release() -> None:
    owners = read([(0, next_claim({}, SHARD, "a", NOW_MS))])
    again = next_claim(owners, SHARD, "a", NOW_MS)
    assert fold(owners, 5, again)
    assert owners[SHARD].offset == 5
    assert foreign_owner(owners, SHARD, "b") is not None

    assert fold(owners, 6, next_claim(owners, SHARD, "a", NOW_MS, is_released=True))
    assert foreign_owner(owners, SHARD, "b") is None
    assert fold(owners, 7, next_claim(owners, SHARD, "b", NOW_MS))
    assert foreign_owner(owners, SHARD, "a") == owners[SHARD]


def test_shards_do_not_meet() -> None:
    owners = read(
        [(0, ShardClaim(1, "a", NOW_MS, after=NOBODY)), (1, ShardClaim(2, "b", NOW_MS, after=NOBODY))]
    )
    assert {shard: owner.claim.store_id for shard, owner in owners.items()} == {1: "a", 2: "b"}


def test_claims_of_format_1_count_in_their_order_and_before_any_newer_one() -> None:
    old = [(offset, ShardClaim(SHARD, store, NOW_MS, after=UNSAID)) for offset, store in enumerate("abc")]
    owners = read(old)
    assert owners[SHARD].claim.store_id == "c"
    assert fold(owners, 3, next_claim(owners, SHARD, "c", NOW_MS))
    assert not fold(owners, 4, replace(old[0][1])), "a program of before would take the shard back unasked"


@given(st.integers(0, 2**32))
def test_readers_of_the_whole_log_and_of_a_compacted_one_agree(seed: int) -> None:
    """Stores claim after what they have read, maybe long ago; each has one claim on its way at most."""
    rng = random.Random(seed)
    log: list[tuple[int, ShardClaim]] = []
    known: dict[str, Owners] = {}
    offset = 0
    for _ in range(rng.randint(1, 30)):
        store = rng.choice("abcd")
        if rng.random() < 0.6 or store not in known:
            known[store] = read(log)  # it reads the log now, and may claim much later
            continue
        offset += rng.randint(1, 3)
        is_owner = known[store].get(SHARD, Owner(0, ShardClaim(SHARD, "", 0))).claim.store_id == store
        log.append(
            (
                offset,
                next_claim(
                    known.pop(store), SHARD, store, NOW_MS, is_released=is_owner and rng.random() < 0.3
                ),
            )
        )
    whole = read(log)
    wins = [offset for place, (offset, _) in enumerate(log) if read(log[: place + 1])[SHARD].offset == offset]
    for place, win in enumerate(wins):  # each winner had seen the one before: nobody was overlooked
        assert dict(log)[win].after == (wins[place - 1] if place else NOBODY)

    # Of each store the last record stays; a store that lost since its last win would hide it, as one that
    # was copied and runs twice may do.
    last = {claim.store_id: at for at, claim in log}
    if SHARD in whole and last[whole[SHARD].claim.store_id] == whole[SHARD].offset:
        replaced = [at for at, claim in log if at != last[claim.store_id]]
        dropped = set(rng.sample(replaced, rng.randint(0, len(replaced))))
        assert read([(at, claim) for at, claim in log if at not in dropped])[SHARD] == whole[SHARD]
