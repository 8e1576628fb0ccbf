"""The outbox: gapless, in order, trimmed up to what every topic has acknowledged and not one row further."""

from hypothesis import given
from hypothesis import strategies as st

from operators.shard.outbox import OutboxProgress
from operators.shard.store_port import Family
from schemas import topics
from schemas.wire import store_keys
from schemas.wire.records import DEAD_LETTER_KEY, TRANSITION_KEY
from tests.operators.shard.desk import FAR_MS, Desk, endpoint

TRANSITIONS, DEAD_LETTERS = topics.TRANSITIONS.name, topics.DEAD_LETTERS.name


def _mixed(desk: Desk) -> None:
    """Makes outbox rows of every kind."""
    desk.deliver("evt_1")
    desk.write(b"?")
    desk.deliver("evt_1", data=b"other")
    desk.deliver("evt_2", "ep_b")
    desk.deliver("evt_3", "ep_c")
    for sent in desk.send():
        desk.answer(sent, {"ep_a": 500, "ep_b": 404, "ep_c": 410}[sent.endpoint.id])


def _mixed_desk() -> Desk:
    desk = Desk(endpoint("ep_a"), endpoint("ep_b"), endpoint("ep_c"))
    _mixed(desk)
    return desk


def test_sequences_are_gapless_and_stamps_carry_them() -> None:
    desk = _mixed_desk()
    desk.kill()
    rows = desk.engine.unpublished(0, FAR_MS)
    assert [row.sequence for row in rows] == list(range(1, desk.engine.state.sequence + 1))
    assert {row.topic for row in rows} == {TRANSITIONS, DEAD_LETTERS, "rejected", "endpoint_status"}
    for row in rows:
        if row.topic == TRANSITIONS:
            stamp = TRANSITION_KEY.decode(row.key).stamp
        elif row.topic == DEAD_LETTERS:
            stamp = DEAD_LETTER_KEY.decode(row.key).stamp
        else:
            continue
        assert (stamp.epoch, stamp.sequence) == (1, row.sequence)


def test_what_is_handed_over_is_what_stands_in_the_store() -> None:
    desk = _mixed_desk()
    assert desk.engine.take_publishes() == desk.engine.unpublished(0, FAR_MS)
    assert desk.engine.take_publishes() == []


def test_a_dead_letter_follows_its_transition() -> None:
    """Reconciliation counts on it: the letter of the end with sequence n is n + 1."""
    desk = _mixed_desk()
    rows = {row.sequence: row for row in desk.engine.unpublished(0, FAR_MS)}
    for row in rows.values():
        if row.topic == TRANSITIONS and TRANSITION_KEY.decode(row.key).state == "dead_lettered":
            assert rows[row.sequence + 1].topic == DEAD_LETTERS


def test_rows_are_read_back_in_pages() -> None:
    desk = _mixed_desk()
    every = desk.engine.unpublished(0, FAR_MS)
    paged, after = [], 0
    while page := desk.engine.unpublished(after, 2):
        paged += page
        after = page[-1].sequence
    assert paged == every


def test_only_the_prefix_that_every_topic_acknowledged_is_trimmed() -> None:
    desk = _mixed_desk()
    rows = desk.engine.take_publishes()
    late = next(row for row in rows if row.topic == "rejected")
    desk.publish([row for row in rows if row is not late])
    desk.engine.barrier()
    left = [store_keys.parse_outbox_key(key) for key, _ in desk.rows(Family.OUTBOX)]
    assert left == list(range(late.sequence, len(rows) + 1))
    assert desk.engine.published_sequence == late.sequence - 1
    desk.publish([late])
    assert desk.engine.published_sequence == len(rows)
    desk.engine.barrier()
    assert desk.rows(Family.OUTBOX) == []


@given(
    st.lists(st.sampled_from([TRANSITIONS, DEAD_LETTERS, "rejected"]), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
    st.integers(1, 4),
)
def test_positions_never_pass_a_row_that_is_not_acknowledged(
    kinds: list[str], rng: object, block: int
) -> None:
    """Topics answer at their own pace and in blocks, each in its own order."""
    rows = list(enumerate(kinds, start=1))
    offsets: dict[int, int] = {}
    waiting: dict[str, list[int]] = {}
    for sequence, topic in rows:
        offsets[sequence] = len(waiting.setdefault(topic, [])) + 100
        waiting[topic].append(sequence)
    progress = OutboxProgress(0, dict.fromkeys(waiting, 100))
    acked: set[int] = set()
    while any(waiting.values()):
        topic = rng.choice(sorted(name for name, left in waiting.items() if left))  # type: ignore[attr-defined]
        taken, waiting[topic] = waiting[topic][:block], waiting[topic][block:]
        progress.acked(topic, taken, offsets[taken[0]])
        acked.update(taken)
        prefix = next((s for s, _ in rows if s not in acked), len(rows) + 1) - 1
        assert progress.published_sequence == prefix
        for name, position in progress.positions.items():
            behind = [offsets[s] + 1 for s, of in rows if of == name and s > prefix]
            in_prefix = [offsets[s] + 1 for s, of in rows if of == name and s <= prefix]
            assert position <= max(in_prefix, default=100), (name, behind)
    assert progress.positions == {name: 100 + kinds.count(name) for name in waiting}


def test_an_acknowledgement_that_comes_twice_changes_nothing() -> None:
    progress = OutboxProgress(0, {})
    progress.acked(TRANSITIONS, [1, 2], 10)
    progress.acked(TRANSITIONS, [1, 2], 10)
    progress.acked(TRANSITIONS, [1, 2], 15)
    assert (progress.published_sequence, progress.positions) == (2, {TRANSITIONS: 17})


def test_rows_that_were_not_acknowledged_are_published_again_after_a_crash() -> None:
    desk = _mixed_desk()
    before = desk.engine.unpublished(0, FAR_MS)
    desk.publish([row for row in before if row.topic == DEAD_LETTERS][:1])  # appended; then the process dies
    desk.kill()
    again = desk.engine.unpublished(0, FAR_MS)
    assert [row for row in before if row not in again] == [
        row for row in before if row.topic == DEAD_LETTERS
    ][:1]


def test_sequences_go_on_after_restarts() -> None:
    desk = Desk()
    for number in range(1, 6):
        desk.deliver(f"evt_{number}")
        desk.settle_everything()
        desk.publish()
        desk.kill()
        assert desk.engine.state.sequence == number
    stamps = [key.stamp for key, _ in desk.transitions()]
    assert [(stamp.epoch, stamp.sequence) for stamp in stamps] == [(n, n) for n in range(1, 6)]
