"""Ordered appends over a log that fails at will: the first copies stand in order, and nothing is missing."""

import random
from collections.abc import Sequence
from functools import partial

import pytest

from dataflows.connectors.log.port import Appended, Entry, TopicPartition
from dataflows.engine.ordered_appends import BACKOFF_MS_MAX, OrderedAppends
from schemas.errors import LogUnavailable, Refused
from tests.simulation.memory_log import Fault, MemoryLog

AT = [TopicPartition("deliveries", partition) for partition in range(3)]


def entry(number: int, size: int = 8) -> Entry:
    return Entry(b"%d" % number, b"x" * size)


def ignore(_offset: int) -> None:
    pass


def note(into: list[tuple[int, int]], number: int, offset: int) -> None:
    into.append((number, offset))


def first_copies(log: MemoryLog, of: TopicPartition) -> list[int]:
    return list(dict.fromkeys([int(record.key or b"") for record in log.records(of)]))


@pytest.mark.parametrize("seed", range(20))
def test_failures_repeat_but_never_reorder_or_lose(seed: int) -> None:
    chance = random.Random(seed)
    log = MemoryLog({"deliveries": 3})
    now_s = 0.0
    appends = OrderedAppends(log, clock=lambda: now_s)
    log.fault = lambda _to, _entries: chance.choice(list(Fault))
    durable: dict[TopicPartition, list[tuple[int, int]]] = {of: [] for of in AT}
    put: dict[TopicPartition, list[int]] = {of: [] for of in AT}
    for number in range(300):
        of = chance.choice(AT)
        put[of].append(number)
        appends.put(of, [entry(number, chance.choice([8, 400_000]))], partial(note, durable[of], number))
        if chance.random() < 0.3:
            now_s += chance.random() / 10
            appends.pump()
    for _ in range(10_000):
        if appends.entries_open == 0:
            break
        now_s += BACKOFF_MS_MAX / 1_000
        appends.pump()
    assert (appends.entries_open, appends.bytes_open) == (0, 0), f"seed {seed}"
    for of in AT:
        assert first_copies(log, of) == put[of], f"seed {seed}"
        assert [number for number, _ in durable[of]] == put[of], f"seed {seed}"
        keys = [record.key for record in log.records(of)]
        assert all(keys[offset] == b"%d" % number for number, offset in durable[of]), f"seed {seed}"


class HeldLog(MemoryLog):
    """Keeps what it is asked, and answers when the test says so."""

    def __init__(self) -> None:
        super().__init__({"deliveries": 3})
        self.asked: list[tuple[TopicPartition, Sequence[Entry]]] = []
        self.answers: list[object] = []

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: object) -> None:
        self.asked.append((to, entries))
        self.answers.append(on_appended)

    def answer(self, result: object) -> None:
        self.answers.pop(0)(result)  # type: ignore[operator]


def test_one_append_is_under_way_per_partition_and_what_waits_goes_together() -> None:
    log = HeldLog()
    appends = OrderedAppends(log)
    for number in range(4):
        appends.put(AT[0], [entry(number)], ignore)
    appends.put(AT[1], [entry(9)], ignore)
    assert [(to, len(entries)) for to, entries in log.asked] == [(AT[0], 1), (AT[1], 1)]
    log.answer(Appended(0, 0))
    assert len(log.asked) == 2, "acknowledgements are taken in by pump, in the flow's thread"
    appends.pump()
    assert [int(one.key or b"") for one in log.asked[2][1]] == [1, 2, 3]
    assert appends.entries_open == 4


def test_a_repeat_waits_longer_each_time_and_starts_over_after_success() -> None:
    log = HeldLog()
    now_s = 0.0
    appends = OrderedAppends(log, clock=lambda: now_s)
    appends.put(AT[0], [entry(1)], ignore)
    waits = []
    for _ in range(10):
        log.answer(LogUnavailable("away"))
        appends.pump()
        failed_at_s, asked = now_s, len(log.asked)
        while len(log.asked) == asked:
            now_s += 0.01
            appends.pump()
        waits.append(round(now_s - failed_at_s, 2))
    assert waits[:4] == pytest.approx([0.05, 0.1, 0.2, 0.4], abs=0.011)
    assert waits[-1] == pytest.approx(BACKOFF_MS_MAX / 1_000, abs=0.011)
    log.answer(Appended(0, 0))
    appends.pump()
    assert appends.entries_open == 0


def test_an_append_never_grows_without_bound() -> None:
    log = HeldLog()
    appends = OrderedAppends(log)
    for number in range(10):
        appends.put(AT[0], [entry(number, 300_000)], ignore)
    log.answer(Appended(0, 0))
    appends.pump()
    assert len(log.asked[1][1]) == 3


def test_what_repeating_does_not_heal_is_raised() -> None:
    log = HeldLog()
    appends = OrderedAppends(log)
    appends.put(AT[0], [entry(1)], ignore)
    log.answer(Refused("no such topic"))
    with pytest.raises(Refused):
        appends.pump()
