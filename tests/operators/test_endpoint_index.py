"""The index against a plain list that is searched from end to end, and the rules about time."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from operators.endpoint_index import DISABLED_MATCH_MS, SCANNED_PATTERNS_MAX, SLACK_MS, EndpointIndex
from operators.matching import matches
from schemas.endpoint import DisabledReport, Endpoint, EndpointStatus

NOW_MS = 10 * DISABLED_MATCH_MS
TYPES = ("a", "a.b", "a.b.c", "b", "b.c")
PATTERNS = ("*", "a", "a.*", "a.b.*", "a.b.c", "b.*", "c")
TENANTS = ("t1", "t2", "t3")


def make(
    name: str = "ep_1",
    tenant: str = "t1",
    patterns: tuple[str, ...] = ("*",),
    status: EndpointStatus = EndpointStatus.ACTIVE,
    generation: int = 1,
    created_at_ms: int = NOW_MS,
    updated_at_ms: int = NOW_MS,
) -> Endpoint:
    return Endpoint(
        id=name,
        tenant_id=tenant,
        url="https://example.com/",
        event_types=patterns,
        secrets=(),
        created_at_ms=created_at_ms,
        updated_at_ms=updated_at_ms,
        status=status,
        generation=generation,
    )


def matched(
    index: EndpointIndex, tenant: str = "t1", event_type: str = "a.b", at_ms: int = NOW_MS
) -> set[str]:
    found = index.match(tenant, event_type, at_ms).subscribers
    names = {one.endpoint_id for one in found}
    assert len(names) == len(found), "an endpoint twice"
    return names


class IndexAgainstAList(RuleBasedStateMachine):
    """Any history of changes leaves the index saying what a search of the plain list says."""

    def __init__(self) -> None:
        super().__init__()
        self.index = EndpointIndex()
        self.endpoints: dict[str, Endpoint] = {}

    @rule(
        number=st.integers(0, 30),
        tenant=st.sampled_from(TENANTS),
        patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=6).map(tuple),
    )
    def put(self, number: int, tenant: str, patterns: tuple[str, ...]) -> None:
        endpoint = make(f"ep_{number}", tenant, patterns)
        self.endpoints[endpoint.id] = endpoint
        self.index.upsert(endpoint)

    @rule(number=st.integers(0, 30))
    def remove(self, number: int) -> None:
        self.endpoints.pop(f"ep_{number}", None)
        self.index.remove(f"ep_{number}")

    @invariant()
    def says_what_the_list_says(self) -> None:
        assert len(self.index) == len(self.endpoints)
        for tenant in TENANTS:
            for event_type in TYPES:
                expected = {
                    one.id
                    for one in self.endpoints.values()
                    if one.tenant_id == tenant and matches(one.event_types, event_type)
                }
                assert matched(self.index, tenant, event_type) == expected
        names = [f"ep_{number}" for number in range(31)]
        named = self.index.named("t1", [*names, *names], NOW_MS).subscribers
        assert [one.endpoint_id for one in named] == [
            name for name in names if name in self.endpoints and self.endpoints[name].tenant_id == "t1"
        ]


TestIndexAgainstAList = IndexAgainstAList.TestCase
TestIndexAgainstAList.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_a_tenant_may_outgrow_the_scan_and_shrink_to_nothing() -> None:
    index = EndpointIndex()
    names = [f"ep_{number}" for number in range(5 * SCANNED_PATTERNS_MAX)]
    for number, name in enumerate(names, 1):
        index.upsert(make(name, patterns=("a.*", "a.b")))
        assert len(matched(index)) == number
    for number, name in enumerate(names, 1):
        index.remove(name)
        assert len(matched(index)) == len(names) - number
    assert len(index) == 0
    assert index._by_tenant == {}


def test_an_endpoint_gets_no_events_from_before_its_creation_less_the_slack() -> None:
    index = EndpointIndex()
    index.upsert(make())
    assert matched(index, at_ms=NOW_MS - SLACK_MS) == {"ep_1"}
    assert matched(index, at_ms=NOW_MS - SLACK_MS - 1) == set()
    index.upsert(make(updated_at_ms=NOW_MS + 10 * SLACK_MS))
    assert matched(index, at_ms=NOW_MS - SLACK_MS) == {"ep_1"}, "an update is no creation"


def test_a_paused_endpoint_matches() -> None:
    index = EndpointIndex()
    index.upsert(make(status=EndpointStatus.PAUSED))
    assert matched(index) == {"ep_1"}


def test_a_disabled_endpoint_matches_for_72_hours_and_is_counted_afterwards() -> None:
    index = EndpointIndex()
    index.upsert(make(status=EndpointStatus.DISABLED))
    end_ms = NOW_MS + DISABLED_MATCH_MS
    assert matched(index, at_ms=end_ms - 1) == {"ep_1"}
    assert matched(index, at_ms=end_ms) == set()
    assert index.match("t1", "a", end_ms).disabled_count == 1
    assert index.match("t1", "a", end_ms - 1).disabled_count == 0
    assert index.named("t1", ["ep_1"], end_ms).disabled_count == 1


def test_a_change_while_disabled_does_not_begin_the_72_hours_anew_but_enabling_ends_them() -> None:
    index = EndpointIndex()
    end_ms = NOW_MS + DISABLED_MATCH_MS
    index.upsert(make(status=EndpointStatus.DISABLED))
    index.upsert(make(status=EndpointStatus.DISABLED, updated_at_ms=end_ms - 1))
    assert matched(index, at_ms=end_ms) == set()
    index.upsert(make(generation=2, updated_at_ms=end_ms))
    assert matched(index, at_ms=end_ms) == {"ep_1"}
    index.upsert(make(status=EndpointStatus.DISABLED, generation=2, updated_at_ms=end_ms + 5))
    assert matched(index, at_ms=end_ms + DISABLED_MATCH_MS + 4) == {"ep_1"}
    assert matched(index, at_ms=end_ms + DISABLED_MATCH_MS + 5) == set()


@given(st.permutations(["endpoint", "report"]), st.integers(1, 3), st.integers(1, 3))
def test_a_report_counts_for_its_generation_whichever_comes_first(
    order: list[str], generation: int, reported: int
) -> None:
    index = EndpointIndex()
    for what in order:
        if what == "endpoint":
            index.upsert(make(generation=generation))
        else:
            index.report_disabled(DisabledReport("ep_1", reported, NOW_MS, "410"))
    is_disabled = reported >= generation
    assert matched(index, at_ms=NOW_MS + DISABLED_MATCH_MS - 1) == {"ep_1"}
    assert matched(index, at_ms=NOW_MS + DISABLED_MATCH_MS) == (set() if is_disabled else {"ep_1"})
    index.upsert(make(generation=reported + 1))
    assert matched(index, at_ms=NOW_MS + DISABLED_MATCH_MS) == {"ep_1"}


def test_unknown_names_change_nothing() -> None:
    index = EndpointIndex()
    index.remove("ep_none")
    index.report_disabled(DisabledReport("ep_none", 1, NOW_MS, "410"))
    assert matched(index) == set()
    assert index.get("ep_none") is None
    assert index.named("t1", ["ep_none"], NOW_MS).subscribers == []
