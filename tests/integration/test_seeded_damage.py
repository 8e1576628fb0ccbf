"""500 seeded damages to a shard's store: a hole is always refused, nothing is lost, little is sent again.

Every damage is one of a directory with several live WALs and more than ten flushes behind it. It is opened as
the process opens it (a damaged store is set aside), reconciled with the log, and run to the end. What must
hold each time:

- What opens is a whole prefix of the batches that were written, row by row, and no shorter than what was
  synced; otherwise it is set aside. A damaged block is an error when it is read, never a short answer.
- Every delivery ends as it had to: 0 lost.
- Nothing is sent again that `transitions` knows the end of.
"""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.damage_afterlife import Afterlife
from tests.integration.damage_world import (
    SYNCED_IN_LAST_WAL,
    SYNCED_IN_OLDER_WAL,
    History,
    write_history,
)
from tests.integration.store_damages import draw, kinds_of_a_store

SEEDS = 500
PARTS = 10


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> list[History]:
    return [
        write_history(tmp_path_factory.mktemp("history") / "0000", switched_at)
        for switched_at in (SYNCED_IN_LAST_WAL, SYNCED_IN_OLDER_WAL)
    ]


@pytest.mark.parametrize("number", range(2))
def test_the_history_is_worth_damaging(histories: list[History], tmp_path: Path, number: int) -> None:
    history = histories[number]
    assert history.flushed > 10
    assert len([file for file in history.directory.glob("wal/*.log") if file.stat().st_size]) >= 3
    assert history.synced_batches < len(history.batches), "some batches are not synced"
    undamaged = _run(history, tmp_path, "no damage")
    assert not undamaged.set_aside_at_start
    assert undamaged.batches_found == history.batches[-1][0]
    in_flight = 5
    assert len(undamaged.sent_again) <= in_flight
    lost = _run(history, tmp_path, "lost", is_lost=True)
    assert lost.set_aside_at_start
    assert len(lost.sent_again) > in_flight, "what `transitions` lacks is sent again, and there is some"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_damage_loses_a_delivery_or_opens_with_a_hole(
    histories: list[History], tmp_path: Path, part: int
) -> None:
    found: Counter[str] = Counter()
    for seed in range(part, SEEDS, PARTS):
        history = histories[seed % 2]
        kinds = kinds_of_a_store(history.last_wal_ends)
        directory = _copy(history, tmp_path)
        life = Afterlife(history, directory, draw(kinds, directory, seed, number=seed // 2))
        life.run()
        found["set aside at start"] += life.set_aside_at_start
        found["met later"] += bool(life.met_later)
    assert found["set aside at start"]


def _copy(history: History, tmp_path: Path) -> Path:
    shutil.rmtree(tmp_path, ignore_errors=True)
    return Path(shutil.copytree(history.directory, tmp_path / "0000"))


def _run(history: History, tmp_path: Path, name: str, *, is_lost: bool = False) -> Afterlife:
    directory = _copy(history, tmp_path)
    if is_lost:
        (directory / "CURRENT").unlink()
    life = Afterlife(history, directory, name)
    life.run()
    return life
