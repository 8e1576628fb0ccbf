"""The clock: what proves it wrong, and what does not."""

from pathlib import Path

import pytest

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Entry, TopicPartition
from deploy.process.clock import BEHIND_MS_MAX, BUILT_AT_MS, Clock, is_kept_in_step_by_ntp, newest_record_ms
from deploy.process.embedded_parts import partition_counts
from deploy.process.schedule_clock import SETTLED_NS, Note, ScheduleClock, Sources
from deploy.process.schedule_line import NS_PER_MS, ScheduleLine
from schemas.settings import Settings
from schemas.topics import DELIVERIES

NOW_MS = 1_790_000_000_000


class Hand:
    """A clock that a test moves."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def _clock(now_ms: int, note: Note | None = None, boot_id: str = "boot") -> ScheduleClock:
    return ScheduleClock(Sources(lambda: 0, lambda: now_ms * NS_PER_MS, boot_id), note)


def _note(wall_ms: int, boot_id: str = "boot") -> Note:
    return Note(boot_id, ScheduleLine(0, wall_ms * NS_PER_MS), wall_ms * NS_PER_MS)


@pytest.mark.parametrize("is_kept_in_step", [True, False])
@pytest.mark.parametrize("is_noted", [True, False])
@pytest.mark.parametrize(
    ("now_ms", "newest_ms", "is_right"),
    [
        (NOW_MS, 0, True),
        (NOW_MS, NOW_MS - 10**12, True),
        (NOW_MS, NOW_MS + BEHIND_MS_MAX, True),
        (NOW_MS, NOW_MS + BEHIND_MS_MAX + 1, False),
        (BUILT_AT_MS, 0, True),
        (BUILT_AT_MS - 1, 0, None),
        (0, NOW_MS, None),
    ],
)
def test_after_a_boot_a_clock_is_wrong_only_when_something_proves_it(
    now_ms: int,
    newest_ms: int,
    is_right: bool | None,  # noqa: FBT001 - None: wrong, whatever the kernel says
    is_noted: bool,  # noqa: FBT001 - in the note of an earlier boot, else by the newest record
    is_kept_in_step: bool,  # noqa: FBT001
) -> None:
    clock = _clock(now_ms, _note(newest_ms, "earlier") if is_noted else None)

    objection = Clock(clock, 0 if is_noted else newest_ms, lambda: is_kept_in_step).objection()

    expected = is_kept_in_step or is_right if is_right is not None else False
    assert (objection is None) == expected, objection


def test_an_objection_says_what_to_do() -> None:
    objection = Clock(_clock(NOW_MS), NOW_MS + 3_600_000, lambda: False).objection()
    assert objection is not None
    assert "60 minutes later" in objection
    assert "set it, or start NTP" in objection


def test_within_a_boot_a_clock_that_went_back_was_set_by_somebody_who_knew() -> None:
    assert Clock(_clock(NOW_MS, _note(NOW_MS + 86_400_000)), NOW_MS, lambda: False).objection() is None


def test_records_that_are_ahead_of_a_clock_that_was_set_back_once_prove_nothing() -> None:
    clock = _clock(NOW_MS, _note(NOW_MS, "earlier"))
    assert Clock(clock, NOW_MS + 3_600_000, lambda: False).objection() is None


def test_a_clock_that_is_set_while_running_is_complained_of_until_it_is_left_alone() -> None:
    boot_ns, wall = [0], Hand(NOW_MS)
    clock = ScheduleClock(Sources(lambda: boot_ns[0], lambda: wall() * NS_PER_MS, "boot"))
    judge = Clock(clock, 0, lambda: False)
    complaints = [judge.complaint()]
    wall.now_ms -= 3_600_000
    clock.follow()
    complaints.append(judge.complaint())
    boot_ns[0] += SETTLED_NS
    complaints.append(judge.complaint())
    wall.now_ms = 0
    complaints.append(judge.complaint())
    assert [complaint is None for complaint in complaints] == [True, False, True, False]


def test_the_kernel_can_be_asked_without_rights() -> None:
    assert is_kept_in_step_by_ntp() in {True, False}


def test_the_newest_record_of_any_partition_counts(tmp_path: Path) -> None:
    hand = Hand(NOW_MS)
    log = LocalLog.open(tmp_path / "log", partitions=partition_counts(Settings()), clock_ms=hand)
    try:
        assert newest_record_ms(log) == 0
        for shard, at_ms in ((3, NOW_MS + 5), (5, NOW_MS + 9), (0, NOW_MS + 11)):
            hand.now_ms = at_ms
            log.append_and_wait(TopicPartition(DELIVERIES.name, shard), [Entry(b"k", b"v")])
        assert newest_record_ms(log) == NOW_MS + 11
    finally:
        log.close()
