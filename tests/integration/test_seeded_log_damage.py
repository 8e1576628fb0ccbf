"""250 seeded damages to the local log: it opens with everything acknowledged, or refuses and says what to do.

The log has no second copy, so there is nothing to heal it from. Whoever reads must get every acknowledged
record, or an error; a shorter answer would be a lost event that nobody hears of.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.local_keys import OFFSET_END
from dataflows.connectors.log.port import Appended, Entry, GroupOffset, Record, TopicPartition
from schemas.errors import HooktideError, StoreUnavailable
from tests.conformance.log_contract import ENDPOINTS, PARTITIONS, read_all
from tests.integration.store_damages import draw, kinds_of_a_log

SEEDS = 250
PARTS = 5
NOW_MS = 1_800_000_000_000
GROUP = "deliver"
SMALL_BUFFER_BYTES = 32 * 1024
PARTITIONS_OF_ALL = [
    TopicPartition(topic, partition) for topic, count in PARTITIONS.items() for partition in range(count)
]
SAYS_WHAT_TO_DO = re.compile(r"[Rr]estore a backup|[Rr]estore it from a backup|delete it to")


@dataclass
class Kept:
    """What a log held when its process was killed, all of it acknowledged.

    Attributes:
        directory: as the kill left it.
    """

    directory: Path
    records: dict[TopicPartition, list[Record]]
    groups: dict[TopicPartition, GroupOffset | None]


def _open(directory: Path) -> LocalLog:
    return LocalLog.open(directory, partitions=PARTITIONS, clock_ms=lambda: NOW_MS, linger_ms=0)


def _fill(log: LocalLog, first: int, count: int) -> None:
    """Appends blocks to every partition, with flushes in between as small memtables make them."""
    families = [log._database.records, *log._database.families.values()]
    for family in families:
        family.flush()
        family.set_options({"write_buffer_size": str(SMALL_BUFFER_BYTES)})
    for number in range(first, first + count):
        for of in PARTITIONS_OF_ALL:
            keys = [b"%d" % (n % 40 if of == ENDPOINTS else n) for n in range(number, number + 3)]
            log.append(of, [Entry(key, b"%d " % number * 40) for key in keys], _acknowledged)
        log.commit(GROUP, {of: GroupOffset(log.end(of), str(number)) for of in PARTITIONS_OF_ALL})


def _acknowledged(answer: Appended | HooktideError) -> None:
    assert isinstance(answer, Appended)


def _kill(log: LocalLog) -> Kept:
    """Returns what a kill leaves, then closes the log."""
    log._database.records.cancel_all_background(wait=True)  # nothing moves while it is copied
    directory = log._database._path.parent
    image = Path(shutil.copytree(directory, directory.with_name("killed"), ignore=_information))
    records = {of: read_all(log, of) for of in PARTITIONS_OF_ALL}
    groups = {of: log.committed(GROUP, of) for of in PARTITIONS_OF_ALL}
    with suppress(StoreUnavailable):  # it says that background work was stopped
        log.close()
    return Kept(image, records, groups)


_information = shutil.ignore_patterns("LOG*")


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> list[Kept]:
    """A log that was opened once and flushed on the way, and one that was closed and opened again."""
    once = _open(tmp_path_factory.mktemp("once") / "log")
    _fill(once, 0, 60)
    again = tmp_path_factory.mktemp("again") / "log"
    for first in (0, 30):
        log = _open(again)
        _fill(log, first, 30)
        if first == 0:
            log.close()
    # One family alone: a new WAL is begun, and the old one is still needed.
    log._database.families["meta"].flush()
    for of in PARTITIONS_OF_ALL:
        log.append_and_wait(of, [Entry(b"last", b"last")])
    return [_kill(once), _kill(log)]


@pytest.mark.parametrize("number", range(2))
def test_without_damage_everything_is_there(histories: list[Kept], tmp_path: Path, number: int) -> None:
    kept = histories[number]
    assert len(list(kept.directory.glob("db/*.sst"))) > 5
    assert sum(len(records) for records in kept.records.values()) > 300
    with _opened(kept, tmp_path / "log"):
        pass


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_damaged_log_is_whole_or_says_what_to_do(histories: list[Kept], tmp_path: Path, part: int) -> None:
    found: Counter[str] = Counter()
    kinds = kinds_of_a_log()
    for seed in range(part, SEEDS, PARTS):
        kept = histories[seed % 2]
        directory = tmp_path / f"{seed}"
        shutil.copytree(kept.directory, directory)
        damage = draw(kinds, directory, seed, number=seed // 2)
        try:
            _check(kept, directory, damage)
        except HooktideError as refusal:
            assert SAYS_WHAT_TO_DO.search(str(refusal)), f"{damage}: {type(refusal).__name__} {refusal}"  # noqa: PT017 - whether it raises is not what is tested
            found["refused"] += 1
        else:
            found["opened"] += 1
        shutil.rmtree(directory)
    assert min(found.values()) > 0


@contextmanager
def _opened(kept: Kept, directory: Path) -> Iterator[LocalLog]:
    shutil.copytree(kept.directory, directory)
    _check(kept, directory, "no damage")
    log = _open(directory)
    yield log
    log.close()


def _check(kept: Kept, directory: Path, damage: str) -> None:
    """Reads everything, and appends: the answers are what they were, or an error is raised."""
    log = _open(directory)
    try:
        for of in PARTITIONS_OF_ALL:
            assert log.end(of) < OFFSET_END
            found, wanted = read_all(log, of), kept.records[of]
            assert found == wanted, f"{damage}: {of} has {len(found)} of {len(wanted)} records"
            assert log.committed(GROUP, of) == kept.groups[of], f"{damage}: group in {of}"
            first = log.append_and_wait(of, [Entry(b"next", b"")]).first_offset
            assert first == wanted[-1].offset + 1, f"{damage}: {of} goes on at {first}"
    finally:
        log.close()
