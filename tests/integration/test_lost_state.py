"""Shard directories that were lost, restored from a copy, exchanged or damaged; and logs that were.

Everything a shard's directory holds can be made again from the log. So whatever became of the directory: what
waited is sent, with its attempt numbers and times going on, and nothing that had ended is sent again.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from dataflows.connectors.log.port import TopicPartition
from dataflows.connectors.shard_store.setting_aside import asides
from dataflows.engine.shard_claims import ClaimLost
from schemas.delivery import Delivery, DeliveryState
from schemas.endpoint import EndpointStatus, RetryPolicy
from schemas.errors import FormatMismatch, HooktideError, Refused
from schemas.topics import DEAD_LETTERS
from schemas.topics import SHARDS as SHARD_CLAIMS
from schemas.transition import Reason
from tests.integration.shards_on_disk import MINUTE_MS, ShardsOnDisk, names

OK = tuple(f"ep_ok_{number}" for number in range(8))
BAD = tuple(f"ep_bad_{number}" for number in range(4))
LATER = tuple(f"ep_later_{number}" for number in range(4))
PAUSED = ("ep_paused_0", "ep_paused_1")
SHORT = RetryPolicy(delays_ms=(1_000,), window_ms=1_500)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[ShardsOnDisk]:
    world = ShardsOnDisk(tmp_path / "data")
    for name in (*OK, *BAD, *LATER):
        world.put_endpoint(name)
    for name in PAUSED:
        world.put_endpoint(name, status=EndpointStatus.PAUSED)
    world.receivers.status |= dict.fromkeys(BAD, 404) | dict.fromkeys(LATER, 500)
    yield world
    world.log.close()


def to_each(disk: ShardsOnDisk, endpoints: tuple[str, ...], count: int) -> list[Delivery]:
    return [one for name in endpoints for one in disk.deliver(name, count // len(endpoints))]


@pytest.mark.timeout(240)
def test_every_directory_deleted_after_a_clean_stop(disk: ShardsOnDisk) -> None:
    """10,000 wait, in every way there is; 100,000 have ended, in every way there is."""
    disk.put_endpoint("ep_short", status=EndpointStatus.PAUSED, retry=SHORT)
    disk.put_endpoint("ep_gone")
    disk.receivers.status["ep_gone"] = 410
    delivered, failed = to_each(disk, OK, 88_000), to_each(disk, BAD, 10_000)
    retried, held = to_each(disk, LATER, 5_000), to_each(disk, PAUSED, 4_000)
    cancelled, expired = disk.deliver(PAUSED[0], 500), disk.deliver("ep_short", 1_500)
    disk.start()
    disk.wait_until(disk.is_idle)
    (gone,) = disk.deliver("ep_gone", 1)
    disk.wait_until(lambda: disk.was_sent(gone) and disk.is_idle())
    for_gone = disk.deliver("ep_gone", 500)
    disk.cancel(cancelled)
    letters = len(failed) + len(expired) + 1
    disk.wait_until(lambda: disk.record_count(DEAD_LETTERS.name) >= letters and disk.is_idle())
    disk.stop()
    before = disk.transitions()
    ended = [*delivered, *failed, *cancelled, *expired, gone]
    assert len(ended) >= 100_000
    assert all(before[one.id][-1][0].state.is_final for one in ended)
    assert {before[one.id][-1][1].reason for one in expired} == {Reason.EXPIRED_WHILE_HELD}
    disk.take_sent()

    shutil.rmtree(disk.directory / "shards")
    waiting = disk.deliver(OK[0], 500)  # accepted while nothing ran
    with pytest.raises(Refused, match=r"shards/0000 is empty.*3 more shards.*--rebuild"):
        disk.start()
    disk.run(rebuild=True)
    assert disk.progress.records_done == disk.progress.records_total > 100_000
    assert disk.take_sent() == names(waiting), "only what nobody had sent yet is due now"

    disk.receivers.status.clear()
    disk.ahead_ms += 13 * MINUTE_MS  # 10 minutes and the jitter
    for name in PAUSED:
        disk.put_endpoint(name, revision=2)
    disk.run(until=lambda: len(disk.receivers.sent) >= len(retried) + len(held))
    requests = list(disk.receivers.sent)
    assert disk.take_sent() == names([*retried, *held])
    after = disk.transitions()
    due_ms = {(one.event_id, one.endpoint_id): before[one.id][-1][0].next_attempt_at_ms for one in retried}
    assert all(due_ms.get((one.event_id, one.endpoint_id), 0) <= one.at_ms for one in requests)
    for deliveries, attempts in ((retried, [1, 2]), (held, [1]), (waiting, [1])):
        for one in deliveries:
            its = [(value.attempt.number, key.state) for key, value in after[one.id] if value.attempt]
            assert [number for number, _ in its] == attempts
            assert its[-1][1] is DeliveryState.DELIVERED
    for one in ended:
        assert len(after[one.id]) == len(before[one.id]), f"{one.id} went on after its end"
    assert max(disk.dead_letters().values()) == 1

    disk.put_endpoint("ep_gone", generation=2, revision=2)
    disk.run(until=lambda: len(disk.receivers.sent) >= len(for_gone))
    assert disk.take_sent() == names(for_gone), "disabled by its 410 until a person enabled it"
    assert not any(runtime.engine.state.endpoint_rows for runtime in disk.deliver_flow.runtimes.values())


Change = Callable[[ShardsOnDisk, int, Path], None]


def delete(disk: ShardsOnDisk, shard: int, copy: Path) -> None:
    del copy
    shutil.rmtree(disk.shard_directory(shard))


def restore(disk: ShardsOnDisk, shard: int, copy: Path) -> None:
    shutil.rmtree(disk.shard_directory(shard))
    shutil.copytree(copy, disk.shard_directory(shard))


def damage(disk: ShardsOnDisk, shard: int, copy: Path) -> None:
    del copy
    (disk.shard_directory(shard) / "CURRENT").unlink()


@pytest.mark.parametrize(
    ("change", "is_refused"),
    [(delete, True), (restore, False), (damage, False)],
    ids=["deleted", "restored", "damaged"],
)
def test_one_directory_is_lost_restored_or_damaged(
    disk: ShardsOnDisk,
    change: Change,
    is_refused: bool,  # noqa: FBT001
) -> None:
    """The copy was taken while the process ran, at an earlier barrier, ledger and all."""
    shard = disk.shard_of(OK[0])
    disk.start()
    first = [*to_each(disk, OK, 800), *to_each(disk, BAD, 200)]
    retried, held = to_each(disk, LATER, 200), to_each(disk, PAUSED, 200)
    disk.wait_until(lambda: len(disk.receivers.sent) == 1_200 and disk.is_idle())
    disk.wait_for_barriers()
    copy = disk.directory / "copy"
    shutil.copytree(disk.shard_directory(shard), copy)
    second = [*to_each(disk, OK, 800), *to_each(disk, BAD, 200)]
    retried += to_each(disk, LATER, 200)
    disk.cancel(cancelled := held[::10])
    disk.wait_until(lambda: len(disk.receivers.sent) == 2_400 and disk.is_idle())
    disk.stop()
    assert disk.take_sent() == names([*first, *second, *retried])

    change(disk, shard, copy)
    if is_refused:
        with pytest.raises(Refused, match=rf"shards/{shard:04d} is empty, but shard {shard} has a history"):
            disk.start()
    disk.run(rebuild=is_refused)
    assert disk.take_sent() == {}
    assert len(asides(disk.shard_directory(shard))) == (change is damage)

    disk.receivers.status.clear()
    disk.ahead_ms += 13 * MINUTE_MS
    for name in PAUSED:
        disk.put_endpoint(name, revision=2)
    goes_on = names([*retried, *(one for one in held if one not in cancelled)])
    disk.run(until=lambda: len(disk.receivers.sent) >= len(goes_on))
    assert disk.take_sent() == goes_on
    disk.run()
    assert disk.take_sent() == {}, "and the next start needs no word either"


def test_two_processes_over_one_log(disk: ShardsOnDisk, tmp_path: Path) -> None:
    """The second is refused; with a person's word it takes over, and what the first did until then counts."""
    first = to_each(disk, OK, 160)
    retried = to_each(disk, LATER, 40)
    disk.start()
    disk.wait_until(lambda: len(disk.receivers.sent) == 200 and disk.is_idle())
    other = ShardsOnDisk(tmp_path / "other", disk.log)
    with pytest.raises(Refused, match=r"other/shards/0000 is empty.*--rebuild"):
        other.start()
    assert disk.log.end(TopicPartition(SHARD_CLAIMS.name, 0)) == 4, "who is refused has claimed nothing"

    meanwhile: list[Delivery] = []
    taking = Thread(target=lambda: other.start(rebuild=True, wait_ms=4_000))
    taking.start()
    disk.wait_until(lambda: disk.log.end(TopicPartition(SHARD_CLAIMS.name, 0)) == 8)
    meanwhile += to_each(disk, OK, 80)
    death = disk.death()
    assert isinstance(death, ClaimLost)
    assert "another process delivers it now, so this one ends" in str(death)
    taking.join()
    other.ahead_ms += 13 * MINUTE_MS
    other.wait_until(lambda: len(other.receivers.sent) >= len(retried) and other.is_idle())
    other.stop()
    sent = disk.take_sent() + other.take_sent()
    assert sent == names([*first, *retried, *retried, *meanwhile])
    with pytest.raises(Refused, match="belongs to store"):
        ShardsOnDisk(tmp_path / "third", disk.log).start()


def test_a_siblings_directory_is_refused(disk: ShardsOnDisk) -> None:
    disk.run()
    aside = disk.directory / "swapped"
    disk.shard_directory(1).rename(aside)
    disk.shard_directory(2).rename(disk.shard_directory(1))
    aside.rename(disk.shard_directory(2))
    for rebuild in (False, True):
        with pytest.raises(FormatMismatch, match="was made for shard 2 of 4, but is opened as shard 1 of 4"):
            disk.start(rebuild=rebuild)


def test_a_directory_of_another_installation_is_refused(disk: ShardsOnDisk, tmp_path: Path) -> None:
    disk.run()
    other = ShardsOnDisk(tmp_path / "other")
    other.run()
    other.log.close()
    shutil.rmtree(disk.shard_directory(1))
    shutil.copytree(other.shard_directory(1), disk.shard_directory(1))
    for rebuild in (False, True):
        with pytest.raises(FormatMismatch, match=r"shards/0001 belongs to the log local-"):
            disk.start(rebuild=rebuild)


def lose_all(disk: ShardsOnDisk, copy: Path) -> None:
    del copy
    disk.replace_log(None)


def lose_the_newest(disk: ShardsOnDisk, copy: Path) -> None:
    disk.replace_log(copy)


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("lose", [lose_all, lose_the_newest])
def test_a_log_that_is_older_than_the_shards_is_refused(
    disk: ShardsOnDisk,
    lose: Callable[[ShardsOnDisk, Path], None],
    rebuild: bool,  # noqa: FBT001
) -> None:
    to_each(disk, OK, 80)
    disk.run()
    copy = disk.copy_log("log.copy")
    to_each(disk, OK, 80)
    disk.run()
    disk.take_sent()

    lose(disk, copy)
    with pytest.raises(FormatMismatch) as refused:
        disk.start(rebuild=rebuild)
    assert "log" in str(refused.value)
    assert str(refused.value).count(". ") <= 2, "a sentence or two"
    assert disk.take_sent() == {}


def test_a_log_restored_within_one_life_of_the_shards_is_refused(disk: ShardsOnDisk) -> None:
    """The epochs say nothing here; the positions do."""
    disk.start()
    to_each(disk, OK, 80)
    disk.wait_until(lambda: len(disk.receivers.sent) == 80 and disk.is_idle())
    shutil.copytree(disk.directory / "log", copy := disk.directory / "log.copy")
    to_each(disk, OK, 80)
    disk.wait_until(lambda: len(disk.receivers.sent) == 160 and disk.is_idle())
    disk.stop()
    disk.replace_log(copy)
    with pytest.raises(HooktideError, match=r"stands at offset \d+ of .* but the log ends at \d+"):
        disk.start()
