"""The marks of tries: what a process that was killed leaves behind, and what the next one makes of it.

A killed process is one whose marks nobody closed: the mapped file is what the kernel keeps.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dataflows.connectors.log.port import TopicPartition
from dataflows.engine.shard_tries import ShardTries
from dataflows.engine.try_marks import KEYS_MAX, TryMarks, key_of
from operators.suspicion import PARK_DEATHS, Phase
from schemas.errors import LogUnavailable, Refused, StoreUnavailable, UnreadableRecord

TOPIC = "deliveries"


def reopen(directory: Path, *, log_id: str = "log", partitions: int = 3, group_max: int = 1) -> TryMarks:
    return TryMarks.open(directory / "tries" / "flow", TOPIC, log_id, partitions, group_max=group_max)


def suspects(marks: TryMarks) -> set[int]:
    return {key for key in range(2_000) if marks.group(key)}


def test_the_records_of_the_try_under_way_are_suspects_of_the_next_process(tmp_path: Path) -> None:
    marks = reopen(tmp_path)
    assert not marks.is_wary
    marks.begin(Phase.ACCEPT, range(3, 9))
    after = reopen(tmp_path)
    assert after.is_wary
    assert suspects(after) == set(range(3, 9))
    assert suspects(reopen(tmp_path)) == set(range(3, 9)), "a start without a try changes nothing"


def test_a_try_that_ended_is_no_death(tmp_path: Path) -> None:
    marks = reopen(tmp_path)
    marks.begin(Phase.ACCEPT, [1])
    marks.done()
    marks.begin_one(Phase.ROUTE, 2)
    marks.leave()
    marks.begin(Phase.SAVE, [])
    assert not reopen(tmp_path).is_wary


def test_three_deaths_park_and_the_parking_is_remembered(tmp_path: Path) -> None:
    marks = reopen(tmp_path, group_max=4)
    marks.begin(Phase.DECODE, range(100))
    marks = reopen(tmp_path, group_max=4)
    assert marks.group(40) == 4
    marks.begin(Phase.DECODE, range(40, 44))
    marks = reopen(tmp_path, group_max=4)
    assert (marks.group(40), marks.group(44)) == (1, 0)
    marks.begin_one(Phase.DECODE, 41)
    for _ in range(3):
        marks = reopen(tmp_path, group_max=4)
        assert (marks.parked[41].deaths, suspects(marks), marks.has_suspects) == (PARK_DEATHS, {41}, False)
        marks.close()


def test_suspects_that_pass_are_acquitted_also_for_the_process_after(tmp_path: Path) -> None:
    reopen(tmp_path).begin(Phase.ACCEPT, [1, 2])
    marks = reopen(tmp_path)
    for key in (1, 2):
        marks.begin(Phase.DECODE, [key])
        marks.turn(Phase.ACCEPT)
        marks.done()
    assert not marks.is_wary
    assert not reopen(tmp_path).is_wary


def test_whatever_is_open_is_the_try_of_an_append(tmp_path: Path) -> None:
    marks = reopen(tmp_path)
    zero, two = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 2)
    marks.opened(zero, 10, 14)
    marks.opened(two, 5, 6)
    marks.opened(two, 8, 9)
    marks.passed_below(zero, 12)
    marks.begin_open(Phase.APPEND)
    after = reopen(tmp_path)
    open_then = {key_of(0, 12), key_of(0, 13), key_of(2, 5), key_of(2, 6), key_of(2, 7), key_of(2, 8)}
    assert set(after._suspicion.suspects[Phase.APPEND].keys) == open_then
    after.passed_below(zero, 14)
    after.passed_below(two, 8)
    assert set(after._suspicion.suspects[Phase.APPEND].keys) == {key_of(2, 8)}
    after.passed_below(two, 9)
    assert not after.is_wary
    after.begin_open(Phase.APPEND)
    assert not reopen(tmp_path).is_wary, "nothing was open"


@pytest.mark.parametrize("error", [LogUnavailable("away"), StoreUnavailable("full"), Refused("moved")])
def test_trouble_outside_of_us_is_no_records_deed(tmp_path: Path, error: Exception) -> None:
    marks = reopen(tmp_path)
    marks.begin(Phase.ACCEPT, [1])
    marks.judge(error)
    assert not reopen(tmp_path).is_wary


@pytest.mark.parametrize("error", [AssertionError(), KeyError(7), MemoryError(), UnreadableRecord("cut")])
def test_an_exception_of_the_handling_code_is_a_death(tmp_path: Path, error: Exception) -> None:
    marks = reopen(tmp_path)
    marks.begin(Phase.ACCEPT, [1])
    marks.judge(error)
    assert reopen(tmp_path).is_wary


def test_an_end_on_purpose_counts_for_nobody_and_only_once(tmp_path: Path) -> None:
    marks = reopen(tmp_path)
    marks.begin(Phase.SEND, [1])
    marks.excuse()
    marks.begin(Phase.SEND, [2])
    after = reopen(tmp_path)
    assert not after.is_wary
    after.begin(Phase.SEND, [3])
    assert suspects(reopen(tmp_path)) == {3}


def test_closing_twice_and_excusing_after_it_do_nothing(tmp_path: Path) -> None:
    marks = reopen(tmp_path)
    marks.begin(Phase.SEND, [1])
    marks.close()
    marks.close()
    marks.excuse()
    assert not reopen(tmp_path).is_wary


def test_offsets_of_another_log_accuse_and_park_nobody(tmp_path: Path) -> None:
    for _ in range(4):
        reopen(tmp_path).begin(Phase.ACCEPT, [1])
    assert not reopen(tmp_path, log_id="another").is_wary


@pytest.mark.parametrize("damage", [b"", b"?", b"{}", b'{"log_id":"log","suspects":{"99":{}},"parked":[]}'])
def test_a_damaged_judgement_is_forgotten(tmp_path: Path, damage: bytes) -> None:
    reopen(tmp_path).begin(Phase.ACCEPT, [1])
    reopen(tmp_path)
    (tmp_path / "tries" / "flow.suspects").write_bytes(damage)
    assert not reopen(tmp_path).is_wary


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100, b"\xff" * (8 * (6 + 6 + KEYS_MAX))])
def test_a_damaged_mark_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    reopen(tmp_path).close()
    (tmp_path / "tries" / "flow").write_bytes(damage)
    marks = reopen(tmp_path)
    assert not marks.is_wary
    marks.begin(Phase.ACCEPT, [1])
    assert suspects(reopen(tmp_path)) == {1}


def test_another_number_of_partitions_is_another_file(tmp_path: Path) -> None:
    reopen(tmp_path).begin(Phase.ACCEPT, [1])
    assert not reopen(tmp_path, partitions=4).is_wary


def test_a_try_of_more_records_than_there_is_room_for_keeps_the_first(tmp_path: Path) -> None:
    reopen(tmp_path).begin(Phase.SAVE, range(KEYS_MAX + 5))
    marks = reopen(tmp_path)
    assert marks.group(KEYS_MAX - 1)
    assert not marks.group(KEYS_MAX)


def test_the_file_has_all_of_its_blocks_so_that_a_full_disk_cannot_kill(tmp_path: Path) -> None:
    reopen(tmp_path)
    stat = (tmp_path / "tries" / "flow").stat()
    assert stat.st_blocks * 512 >= stat.st_size


def test_a_path_that_cannot_be_made_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tries").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        reopen(tmp_path)


def test_a_shard_speaks_in_its_own_offsets(tmp_path: Path) -> None:
    for _ in range(PARK_DEATHS):
        ShardTries(reopen(tmp_path), 2).begin(Phase.SEND, [7])
    marks = reopen(tmp_path)
    assert ShardTries(marks, 2).parked.keys() == {7}
    assert (ShardTries(marks, 2).group(7), ShardTries(marks, 1).group(7)) == (1, 0)
    assert not ShardTries(marks, 1).parked


def test_a_parked_record_raises_an_alarm_with_position_and_count(tmp_path: Path) -> None:
    for _ in range(PARK_DEATHS):
        ShardTries(reopen(tmp_path), 2).begin(Phase.SEND, [7])
    with capture_logs() as lines:
        marks = reopen(tmp_path)
        ShardTries(marks, 2).note_parked(7)
    (alarm,) = [line for line in lines if line["event"] == "record_parked"]
    expected: dict[str, Any] = {"topic": TOPIC, "partition": 2, "offset": 7, "phase": "send", "deaths": 3}
    assert alarm.items() >= {**expected, "log_level": "error"}.items()
    assert marks.parked_count == 1
    assert json.loads((tmp_path / "tries" / "flow.suspects").read_bytes())["parked"] == [[key_of(2, 7), 4, 3]]
