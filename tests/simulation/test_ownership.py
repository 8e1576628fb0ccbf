"""Several processes over one log: who owns a shard, and who is refused, and with which words."""

import time
from collections.abc import Callable, Sequence

import pytest
from structlog.testing import capture_logs

from dataflows.connectors.log.port import Appended, Entry, TopicPartition
from dataflows.connectors.shard_store.memory import MemoryStore
from dataflows.engine.barrier import BackgroundSync
from dataflows.engine.shard_boot import Started, StartInterrupted, start_shards
from dataflows.engine.shard_claims import ClaimLost, ShardClaims, Terms, takeover_wait_ms
from dataflows.engine.start_progress import StartProgress
from dataflows.engine.stop import StopSignal
from operators.shard.actions import BarrierMark
from operators.shard.policy import ShardPolicy
from operators.shard.store_port import Family
from schemas import topics
from schemas.delivery import DeliveryState, Lane
from schemas.errors import FormatMismatch, Refused
from schemas.shard_claim import ShardClaim
from schemas.transition import RowStamp, TransitionKey
from schemas.wire import store_keys
from schemas.wire.records import SHARD_CLAIM, TRANSITION_KEY
from schemas.wire.store_rows import STAMP_ROW
from tests.simulation.memory_log import MemoryLog
from tests.simulation.scripted_shard import View

SHARDS = TopicPartition(topics.SHARDS.name, 0)
COUNTS = {topic.name: 2 if topic.spread is topics.Spread.SHARDS else 1 for topic in topics.ALL_TOPICS}
NOW_MS = 1_800_000_000_000
DIRECTORIES = {0: "/data/shards/0000", 1: "/data/shards/0001"}


def make_stores(name: str) -> dict[int, MemoryStore]:
    return {shard: MemoryStore(shard=shard, shard_count=2, store_id=f"{name}{shard}") for shard in range(2)}


def claim(
    log: MemoryLog, stores: dict[int, MemoryStore], *, rebuild: bool = False, replaced: Sequence[int] = ()
) -> ShardClaims:
    terms = Terms(rebuild=rebuild, replaced=frozenset(replaced), directories=DIRECTORIES)
    return ShardClaims.make(log, stores, NOW_MS, terms)


def claims_in(log: MemoryLog) -> list[ShardClaim]:
    return [SHARD_CLAIM.decode(record.value or b"") for record in log.records(SHARDS)]


def look(claims: ShardClaims) -> None:
    """Looks now, not within the second."""
    claims._next_check_s = 0.0
    claims.check()


def test_the_epoch_is_the_claims_own_offset_and_the_topic_is_read_once() -> None:
    log = MemoryLog(COUNTS)
    opened = 0
    reader = log.reader

    def counting(positions: dict[TopicPartition, int]) -> object:
        nonlocal opened
        opened += 1
        return reader(positions)

    log.reader = counting  # type: ignore[assignment,method-assign]
    first = claim(log, make_stores("a"))
    assert first.epochs == {0: 0, 1: 1}
    assert opened == 1
    assert claim(log, make_stores("a")).epochs == {0: 2, 1: 3}, "the same directories come back"


def test_another_store_is_refused_with_the_directory_and_the_flag_and_writes_nothing() -> None:
    log = MemoryLog(COUNTS)
    claim(log, make_stores("a"))
    before = claims_in(log)

    with pytest.raises(Refused) as refused:
        claim(log, make_stores("b"))

    assert str(refused.value) == (
        "the directory /data/shards/0000 is empty, but shard 0 has a history, and it belongs to store a0 "
        "(the same goes for 1 more shards). Put the directory that owns the shard back; if it is lost, start "
        "once with --rebuild: then the shard's state is made again from the log"
    )
    assert claims_in(log) == before
    mixed = {0: make_stores("a")[0], 1: make_stores("b")[1]}
    with pytest.raises(Refused, match=r"/data/shards/0001 is empty, but shard 1 .* store a1\. Put"):
        claim(log, mixed)
    assert claim(log, mixed, replaced=[1]).taken == {1}, "its directory was found damaged and set aside"


def test_a_stop_releases_nothing_and_a_release_frees_the_shard_for_anybody() -> None:
    log = MemoryLog(COUNTS)
    first = claim(log, make_stores("a"))
    first.release([1], NOW_MS)
    look(first)

    with pytest.raises(Refused, match="shard 0 has a history"):
        claim(log, make_stores("b"))
    second = ShardClaims.make(log, {1: make_stores("b")[1]}, NOW_MS, Terms())
    assert not second.taken
    with pytest.raises(Refused, match="shard 1"):
        claim(log, make_stores("a"))


def test_an_owner_learns_of_a_higher_claim_and_says_whose_it_is() -> None:
    log = MemoryLog(COUNTS)
    old = claim(log, make_stores("a"))
    look(old)
    new = claim(log, make_stores("b"), rebuild=True)
    assert new.taken == {0, 1}
    look(new)
    with pytest.raises(ClaimLost, match=r"shard 0 was claimed by store b0 \(epoch 2\) after store a0"):
        look(old)
    with pytest.raises(ClaimLost):
        old.release([0], NOW_MS)


def test_a_directory_that_was_copied_and_runs_twice_ends_the_first_of_the_two() -> None:
    log = MemoryLog(COUNTS)
    first, second = claim(log, make_stores("a")), claim(log, make_stores("a"))
    look(second)
    with pytest.raises(ClaimLost, match="One of the two must not be started again"):
        look(first)


def test_of_two_that_claim_at_once_the_first_in_the_log_wins() -> None:
    log = MemoryLog(COUNTS)
    winners: list[ShardClaims] = []
    append = log.append_and_wait

    def overtaken(to: TopicPartition, entries: Sequence[Entry], timeout_s: float = 2.0) -> Appended:
        if not winners:
            log.append_and_wait = append  # type: ignore[method-assign]
            winners.append(claim(log, make_stores("a")))
        return append(to, entries, timeout_s)

    log.append_and_wait = overtaken  # type: ignore[method-assign]
    with pytest.raises(ClaimLost, match="store a0"):
        claim(log, make_stores("b"))
    look(winners[0])
    assert claim(log, make_stores("a")).epochs == {0: 4, 1: 5}, "the loser's records do not count"
    with pytest.raises(Refused, match="belongs to store a0"):
        claim(log, make_stores("b"))


def test_the_background_thread_ends_an_owner_that_was_dispossessed() -> None:
    log = MemoryLog(COUNTS)
    stores = make_stores("a")
    sync = BackgroundSync(log, stores, 1, claim(log, stores))
    sync.start()
    sync.check()
    claim(log, make_stores("b"), rebuild=True)
    log.wait_until(lambda: sync._error is not None)
    with pytest.raises(ClaimLost, match="claimed by store b0"):
        sync.check()


def test_barriers_of_another_store_are_no_persons_doing() -> None:
    log = MemoryLog(COUNTS)
    ours, theirs = make_stores("a"), make_stores("b")
    here = BackgroundSync(log, ours, 1, claim(log, ours))
    here._mirror({0: BarrierMark(0, 1)})
    there = BackgroundSync(log, theirs, 1, claim(log, theirs, rebuild=True))
    there._mirror({0: BarrierMark(0, 1)})
    with pytest.raises(ClaimLost, match="store b0 of another process writes barriers of shard 0"):
        here._mirror({0: BarrierMark(0, 2)})


def start(
    log: MemoryLog,
    stores: dict[int, MemoryStore],
    *,
    terms: Terms = Terms(),  # noqa: B008 - immutable
    progress: StartProgress | None = None,
    stop: StopSignal | None = None,
) -> Started:
    return start_shards(
        log, stores, View(), ShardPolicy(), lambda: NOW_MS, terms=terms, progress=progress, stop=stop
    )


def write_transitions(log: MemoryLog, shard: int, count: int) -> None:
    keys = [
        TransitionKey(
            f"dlv_{shard}_{n}",
            RowStamp(0, n + 1),
            "ep",
            Lane.FRESH,
            n,
            DeliveryState.DELIVERED,
            1,
            1,
            0,
            b"",
            0,
        )
        for n in range(count)
    ]
    entries = [Entry(TRANSITION_KEY.encode(key), b"") for key in keys]
    log.append_and_wait(TopicPartition(topics.TRANSITIONS.name, shard), entries)


class MeanwhileSignal(StopSignal):
    """Is asked while the new owner waits; the old one publishes then."""

    __slots__ = ("_meanwhile",)

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self._meanwhile: Callable[[], None] | None = meanwhile

    @property
    def is_requested(self) -> bool:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return False


def test_after_a_takeover_the_old_owner_gets_its_time_before_its_topics_are_read() -> None:
    log = MemoryLog(COUNTS)
    start(log, make_stores("a"))
    terms = Terms(rebuild=True, wait_ms=60, directories=DIRECTORIES)
    stop = MeanwhileSignal(lambda: write_transitions(log, 0, 5))
    began_s = time.monotonic()
    started = start(log, make_stores("b"), terms=terms, stop=stop)
    assert time.monotonic() - began_s >= 0.06
    assert started.engines[0].reconcile.redone_count == 5
    assert takeover_wait_ms(15_000, 1_000) == 17_000


def test_a_stop_ends_a_start_between_two_blocks_and_nothing_is_redone_twice() -> None:
    log = MemoryLog(COUNTS)
    write_transitions(log, 0, 3_000)
    stores, stop, progress = make_stores("a"), StopSignal(), StartProgress(clock=lambda: 0.0)
    advance = progress.advance

    def stopped_halfway(shard: int, records: int) -> None:
        advance(shard, records)
        if progress.records_done >= 1_000:
            stop.request()

    progress.advance = stopped_halfway  # type: ignore[method-assign]
    with pytest.raises(StartInterrupted):
        start(log, stores, stop=stop, progress=progress)
    assert (progress.records_done, progress.records_total, progress.percent) == (1_000, 3_000, 33)
    assert start(log, stores).engines[0].reconcile.redone_count == 2_000


@pytest.mark.parametrize("is_rebuild", [False, True])
def test_a_store_of_another_log_is_refused_whatever_a_person_says(is_rebuild: bool) -> None:  # noqa: FBT001
    log, other = MemoryLog(COUNTS), MemoryLog(COUNTS)
    other.cluster_id = "other"
    stores = make_stores("a")
    start(other, stores)
    with pytest.raises(
        FormatMismatch, match="/data/shards/0000 belongs to the log other, but this is the log"
    ):
        claim(log, stores, rebuild=is_rebuild)
    assert claims_in(log) == []


def test_a_store_of_a_later_epoch_than_the_log_has_is_refused() -> None:
    """The log was restored from a copy of before: its next claim would get an epoch that was used already."""
    log = MemoryLog(COUNTS)
    stores = make_stores("a")
    batch = stores[1].batch()
    batch.put(Family.META, store_keys.META_STAMP, STAMP_ROW.encode(RowStamp(0, 7)))
    stores[1].write(batch)
    with pytest.raises(FormatMismatch, match="was written under epoch 0, but the log's claims end at 0"):
        claim(log, stores)


def test_a_slow_start_says_once_a_second_where_it_stands() -> None:
    now_s = 0.0
    progress = StartProgress(clock=lambda: now_s)
    progress.begin(2_000)
    said = []
    with capture_logs() as lines:
        for _ in range(20):
            now_s += 0.3
            progress.advance(1, 100)
            said.append(progress.words)
    assert said[:3] == ["", "", ""], "most starts are over before anybody could look"
    assert said[3] == "shard 1, 20 % of 2,000 records read"
    assert [line["records_done"] for line in lines] == [400, 800, 1_200, 1_600, 2_000]
    assert {line["event"] for line in lines} == {"reconcile_progress"}
    assert (progress.percent, lines[0]["records_total"], lines[0]["percent"]) == (100, 2_000, 20)
