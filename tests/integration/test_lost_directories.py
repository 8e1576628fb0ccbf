"""The real process over data directories that lost something: what it says, and what it sends again."""

import shutil
import time
from collections import Counter
from http.client import HTTPException

import pytest

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import TopicPartition
from deploy.process.embedded_parts import partition_counts
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from schemas.delivery import DeliveryState
from schemas.ids import delivery_id
from schemas.settings import Settings
from schemas.topics import TRANSITIONS
from schemas.wire.records import TRANSITION_KEY
from tests.integration.hooktide_process import HooktideProcess, await_events

ENDPOINTS = 6
ROUNDS = 2
ANSWER_S = 0.05
UNPUBLISHED_S = 0.1
NOISE_S = 0.5
"""What a loaded machine may add to the two above."""


def sentences(process: HooktideProcess) -> list[str]:
    return [line for line in process.log.splitlines() if line.startswith("hooktide: ")]


def published_ends(process: HooktideProcess) -> set[str]:
    """Which deliveries the stopped process's log knows to be delivered."""
    log = LocalLog.open(process.data / "log", partitions=partition_counts(Settings()), clock_ms=lambda: 0)
    ended = set()
    for shard in range(Settings().log.shards):
        of = TopicPartition(TRANSITIONS.name, shard)
        reader = log.reader({of: log.start(of)})
        while records := reader.poll(of, 1_000):
            keys = [TRANSITION_KEY.decode(record.key or b"") for record in records]
            ended |= {key.delivery_id for key in keys if key.state is DeliveryState.DELIVERED}
    log.close()
    return ended


@pytest.mark.timeout(180)
def test_directories_deleted_after_a_kill_repeat_what_was_in_flight_or_unpublished(
    hooktide: HooktideProcess,
) -> None:
    with ReceiverThread() as receiver:
        receiver.behave(Behaviour(delay_s=ANSWER_S))
        hooktide.start()
        endpoints = [
            hooktide.create_endpoint(f"{receiver.url}/{number}")["id"] for number in range(ENDPOINTS)
        ]
        by_path = {f"/{number}": endpoint_id for number, endpoint_id in enumerate(endpoints)}
        accepted: set[str] = set()
        for round_number in range(ROUNDS):
            for number in range(150):
                accepted.add(hooktide.publish({"n": number}, key=f"{round_number}-{number}")["id"])
            hooktide.kill()
            killed_at_ns = time.time_ns()
            before = receiver.arrivals
            ended = published_ends(hooktide)
            arrived = Counter((one.webhook_id, one.path) for one in before)
            open_ones = {
                (one.webhook_id, one.path): killed_at_ns - one.received_at_ns
                for one in before
                if delivery_id(one.webhook_id, by_path[one.path]) not in ended
            }
            shutil.rmtree(hooktide.data / "shards")

            hooktide.launch(["--allow-private"])
            assert hooktide.wait() == 3
            (sentence,) = sentences(hooktide)
            assert "--rebuild" in sentence
            assert str(hooktide.data / "shards" / "0000") in sentence

            hooktide.start(["--rebuild"])
            last = hooktide.publish({"last": round_number})["id"]
            accepted.add(last)
            wanted = {(event, path) for event in accepted for path in by_path}
            arrivals = receiver.arrivals
            while missing := wanted - {(one.webhook_id, one.path) for one in arrivals}:
                came = receiver.wait_for(len(arrivals) + 1, 20)
                assert len(came) > len(arrivals), f"lost {len(missing)}: {hooktide.log}"
                arrivals = came
            repeated = Counter((one.webhook_id, one.path) for one in receiver.arrivals) - arrived
            again = {pair for pair in repeated if pair in arrived}
            oldest_s = max(open_ones.values(), default=0) / 1e9
            print(f"{len(again)} of {len(open_ones)} sent again, the oldest {oldest_s:.3f} s")  # noqa: T201
            assert again <= open_ones.keys(), "sent again although its end stood in the log"
            assert all(repeated[pair] == 1 for pair in again)
            assert oldest_s <= ANSWER_S + UNPUBLISHED_S + NOISE_S
        assert hooktide.terminate() == 0, hooktide.log


def test_what_is_only_a_memory_or_a_view_may_be_lost(hooktide: HooktideProcess) -> None:
    """Table views live in memory and come from their topics; answers to keys are a convenience."""
    with ReceiverThread() as receiver:
        hooktide.start()
        made = hooktide.create_endpoint(receiver.url)
        first = hooktide.publish({"n": 1}, key="one")
        assert await_events(receiver, {first["id"]}) == {first["id"]}
        assert hooktide.terminate() == 0, hooktide.log
        shutil.rmtree(hooktide.data / "idempotency")

        hooktide.start()
        assert hooktide.api("GET", f"webhooks/endpoints/{made['id']}").json["url"] == made["url"]
        assert hooktide.publish({"n": 1}, key="one")["id"] == first["id"], "a key names one event for ever"
        second = hooktide.publish({"n": 2})["id"]
        assert await_events(receiver, {second}) >= {second}
        assert hooktide.terminate() == 0, hooktide.log
    assert Counter(one.webhook_id for one in receiver.arrivals) == {first["id"]: 1, second: 1}


@pytest.mark.parametrize("is_all", [False, True], ids=["shards kept", "shards lost too"])
def test_a_lost_log_is_refused_with_one_sentence(hooktide: HooktideProcess, is_all: bool) -> None:  # noqa: FBT001
    hooktide.start()
    assert hooktide.terminate() == 0, hooktide.log
    log = hooktide.data / "log"
    kept = hooktide.directory / "kept"
    log.rename(kept)
    if is_all:
        shutil.rmtree(hooktide.data / "shards")

    for make_empty in (False, True):
        if make_empty:
            log.mkdir()
        for flags in ([], ["--rebuild"]):
            assert hooktide.launch(flags).wait() == 3
            (sentence,) = sentences(hooktide)
            assert f"the log {log} (local-" in sentence
            assert "gone: the directory is missing or empty" in sentence
            assert "restore the whole data directory from a backup" in sentence
            assert not log.exists() or not any(log.iterdir()), "nothing was made in its place"

    other = LocalLog.open(log, partitions=partition_counts(Settings()), clock_ms=lambda: 1)
    other.close()
    assert hooktide.launch(["--rebuild"]).wait() == 3
    assert "it was replaced" in sentences(hooktide)[0]

    shutil.rmtree(log)
    kept.rename(log)
    hooktide.start(["--rebuild"] if is_all else [])
    assert hooktide.terminate() == 0, hooktide.log


def test_a_damaged_directory_is_set_aside_and_made_again_without_a_word(hooktide: HooktideProcess) -> None:
    with ReceiverThread() as receiver:
        hooktide.start()
        hooktide.create_endpoint(receiver.url)
        first = hooktide.publish({"n": 1})["id"]
        assert await_events(receiver, {first}) == {first}
        assert hooktide.terminate() == 0, hooktide.log
        shards = hooktide.data / "shards"
        for shard in range(Settings().log.shards):
            (shards / f"{shard:04d}" / "CURRENT").unlink()

        for _ in range(2):
            hooktide.start()
            event = hooktide.publish({"n": 2})["id"]
            assert await_events(receiver, {event}) >= {event}
            assert hooktide.terminate() == 0, hooktide.log
        assert len(list(shards.glob("*.damaged-1"))) == Settings().log.shards
        assert not list(shards.glob("*.damaged-2"))
        assert not list(shards.glob("*.set-aside")), "the note counts only until the shards are claimed"
    assert max(Counter(one.webhook_id for one in receiver.arrivals).values()) == 1


def test_a_second_process_over_the_same_directory_is_refused(hooktide: HooktideProcess) -> None:
    with ReceiverThread() as receiver:
        hooktide.start()
        hooktide.create_endpoint(receiver.url)
        second = HooktideProcess(hooktide.directory)
        second._starts = 1
        try:
            assert second.launch(["--rebuild"]).wait() == 3
            assert "in use by process" in sentences(second)[0]
        finally:
            second.close()
        try:
            event = hooktide.publish({"n": 1})["id"]
        except HTTPException as error:
            raise AssertionError(hooktide.log) from error
        assert await_events(receiver, {event}) == {event}
        assert hooktide.terminate() == 0, hooktide.log
