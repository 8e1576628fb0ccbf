"""How file descriptors are shared out: never more than there are, and nobody starves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.process.descriptors import (
    API_MIN,
    FIXED,
    LOG_TABLES,
    NOT_TABLES,
    PER_STORE,
    SLOT,
    SLOTS_MIN,
    TABLES_MIN,
    DescriptorPlan,
    least_descriptors,
    plan_descriptors,
)
from deploy.process.exit_codes import ExitCode, code_of_start
from schemas.errors import Refused

shard_counts = st.integers(1, 1_024)


def needed(plan: DescriptorPlan, shards: int) -> int:
    """Returns how many descriptors are open when everybody uses all of his share."""
    tables = LOG_TABLES + TABLES_MIN + shards * (plan.store_files_max - NOT_TABLES)
    own = FIXED + shards * PER_STORE
    return own + tables + plan.api_connections_max + SLOT * plan.slot_plan.slots


@given(st.integers(1, 65_536), shard_counts, st.integers(0, 1 << 20))
def test_the_shares_are_never_more_than_there_are(wanted: int, shards: int, more: int) -> None:
    limit = least_descriptors(shards) + more
    plan = plan_descriptors(wanted, limit, shards)

    assert needed(plan, shards) <= limit
    assert min(wanted, SLOTS_MIN) <= plan.slot_plan.slots <= wanted
    assert plan.slot_plan.is_lowered == (plan.slot_plan.slots < wanted)
    assert plan.slot_plan.descriptor_limit == limit
    assert plan.api_connections_max >= API_MIN
    assert plan.store_files_max - NOT_TABLES >= TABLES_MIN


@given(st.integers(1, 65_536), shard_counts, st.integers(0, 1 << 20), st.integers(0, 1 << 16))
def test_more_descriptors_never_make_a_share_smaller_by_more_than_rounding(
    wanted: int, shards: int, more: int, still_more: int
) -> None:
    limit = least_descriptors(shards) + more
    plan, larger = (plan_descriptors(wanted, one, shards) for one in (limit, limit + still_more))

    assert larger.store_files_max >= plan.store_files_max
    assert larger.api_connections_max >= plan.api_connections_max
    assert larger.slot_plan.slots >= plan.slot_plan.slots - shards


@given(shard_counts, st.integers(1, 100))
def test_too_few_are_refused_with_the_number_that_would_do(shards: int, missing: int) -> None:
    least = least_descriptors(shards)
    with pytest.raises(Refused, match=f"{least} are the least") as refused:
        plan_descriptors(4_096, least - missing, shards)
    assert code_of_start(refused.value) == ExitCode.REFUSED


@pytest.mark.parametrize(
    ("limit", "shards", "slots"),
    [(256, 1, 14), (512, 8, 29), (1_024, 8, 189), (4_096, 8, 1_149), (20_000, 8, 4_096), (4_096, 64, 646)],
)
def test_the_usual_limits_allow_this_much(limit: int, shards: int, slots: int) -> None:
    assert plan_descriptors(4_096, limit, shards).slot_plan.slots == slots
