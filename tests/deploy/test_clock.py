"""The clock: what proves it wrong, and what does not."""

from pathlib import Path

import pytest

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Entry, TopicPartition
from deploy.process.clock import BEHIND_MS_MAX, BUILT_AT_MS, Clock, is_kept_in_step_by_ntp, newest_record_ms
from deploy.process.embedded_parts import partition_counts
from schemas.settings import Settings
from schemas.topics import DELIVERIES

NOW_MS = 1_790_000_000_000


class Hand:
    """A clock that a test moves."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


@pytest.mark.parametrize("is_kept_in_step", [True, False])
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
def test_a_clock_is_wrong_only_when_something_proves_it(
    now_ms: int,
    newest_ms: int,
    is_right: bool | None,  # noqa: FBT001 - None: wrong, whatever the kernel says
    is_kept_in_step: bool,  # noqa: FBT001
) -> None:
    complaint = Clock(lambda: now_ms, newest_ms, lambda: is_kept_in_step).complaint()

    expected = is_kept_in_step or is_right if is_right is not None else False
    assert (complaint is None) == expected, complaint


def test_a_clock_that_is_set_back_while_running_is_noticed_and_forgiven_when_it_returns() -> None:
    hand = Hand(NOW_MS)
    clock = Clock(hand, 0, lambda: False)
    assert clock.complaint() is None

    hand.now_ms -= 3_600_000
    complaint = clock.complaint()
    hand.now_ms += 3_600_000

    assert complaint is not None
    assert "60 minutes later" in complaint
    assert clock.complaint() is None


def test_once_the_kernel_has_vouched_for_the_clock_it_is_the_new_measure() -> None:
    hand, kept = Hand(NOW_MS), [True]
    clock = Clock(hand, NOW_MS + 86_400_000, lambda: kept[0])
    assert clock.complaint() is None

    kept[0] = False

    assert clock.complaint() is None


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
