"""What every `ShardStore` promises: a state machine that compares it with plain dicts, and single facts.

Keys are drawn from few bytes, 0x00 and 0xff among them, so that ranges meet, nest and touch. Large values
make an implementation that has levels move rows between them while the machine runs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from operators.shard.store_port import Batch, Family, ShardStore

Rows = dict[bytes, bytes]

FAMILIES = st.sampled_from(list(Family))
# A range of `meta` might cover the rows under `_store.`, which say whose store it is: nobody deletes one.
RANGE_FAMILIES = st.sampled_from([family for family in Family if family is not Family.META])
GENERATIONS = st.integers(0, 5)
KEYS = st.lists(st.sampled_from([b"\0", b"\1", b"a", b"\xfe", b"\xff"]), max_size=3).map(b"".join)
VALUES = st.one_of(st.binary(max_size=4), st.integers(0, 255).map(lambda byte: bytes([byte]) * 5_000))


class World(Protocol):
    """One store's place, empty at first."""

    def open(self) -> ShardStore:
        """Returns the store, open; what was written before is there."""

    def close(self) -> None:
        """Removes the place."""


class Step(NamedTuple):
    """One step of a batch: what it does to a batch, and to the model."""

    name: str
    table: Family | int
    first: bytes
    second: bytes

    def add_to(self, batch: Batch) -> None:
        match self.name, self.table:
            case "put", Family() as family:
                batch.put(family, self.first, self.second)
            case "delete", Family() as family:
                batch.delete(family, self.first)
            case "delete_range", Family() as family:
                batch.delete_range(family, self.first, self.second)
            case "put", int(generation):
                batch.put_seen(generation, self.first, self.second)
            case "delete", int(generation):
                batch.delete_seen(generation, self.first)
            case _:
                raise AssertionError(self)

    def apply_to(self, rows: Rows) -> None:
        if self.name == "put":
            rows[self.first] = self.second
        elif self.name == "delete":
            rows.pop(self.first, None)
        else:
            for key in [key for key in rows if self.first <= key < self.second]:
                del rows[key]


def steps(generations: list[int]) -> st.SearchStrategy[list[Step]]:
    """Draws the steps of a batch over the families and the generations that are there."""
    choices = [
        st.builds(Step, st.just("put"), FAMILIES, KEYS, VALUES),
        st.builds(Step, st.just("delete"), FAMILIES, KEYS, st.just(b"")),
        st.builds(Step, st.just("delete_range"), RANGE_FAMILIES, KEYS, KEYS),
    ]
    if generations:
        numbers = st.sampled_from(generations)
        choices += [
            st.builds(Step, st.just("put"), numbers, KEYS, VALUES),
            st.builds(Step, st.just("delete"), numbers, KEYS, st.just(b"")),
        ]
    return st.lists(st.one_of(choices), max_size=12)


class ShardStoreMachine(RuleBasedStateMachine):
    """Random batches, reads and reopenings, compared with dicts. A subclass says how to make a world."""

    make_world: Callable[[], World]

    @initialize()
    def begin(self) -> None:
        self.world = type(self).make_world()
        self.store = self.world.open()
        self.store_id = self.store.store_id
        # The store's own rows in `meta` are rows like any other.
        self.families: dict[Family, Rows] = {family: dict(self.store.scan_all(family)) for family in Family}
        self.seen: dict[int, Rows] = {}

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        batch = self.store.batch()
        for step in data.draw(steps(sorted(self.seen))):
            step.add_to(batch)
            if isinstance(step.table, Family):
                step.apply_to(self.families[step.table])
            else:
                step.apply_to(self.seen[step.table])
        self.store.write(batch)

    @rule(data=st.data())
    def forget_a_batch(self, data: st.DataObject) -> None:
        batch = self.store.batch()
        for step in data.draw(steps(sorted(self.seen))):
            step.add_to(batch)

    @rule(family=FAMILIES, start=KEYS, end=KEYS, limit=st.integers(0, 8))
    def scan(self, family: Family, start: bytes, end: bytes, limit: int) -> None:
        rows = sorted(row for row in self.families[family].items() if start <= row[0] < end)
        assert self.store.scan(family, start, end, limit) == rows[:limit]

    @rule(family=FAMILIES, start=KEYS)
    def seek(self, family: Family, start: bytes) -> None:
        found = min((key for key in self.families[family] if key >= start), default=None)
        assert self.store.seek(family, start) == found

    @rule(family=FAMILIES, keys=st.lists(KEYS, max_size=8))
    def get(self, family: Family, keys: list[bytes]) -> None:
        values = [self.families[family].get(key) for key in keys]
        assert self.store.get_many(family, keys) == values
        assert [self.store.get(family, key) for key in keys] == values

    @rule(number=GENERATIONS)
    def add_generation(self, number: int) -> None:
        self.store.add_generation(number)
        self.seen.setdefault(number, {})

    @rule(number=GENERATIONS)
    def drop_generation(self, number: int) -> None:
        self.store.drop_generation(number)
        self.seen.pop(number, None)

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), keys=st.lists(KEYS, max_size=8))
    def get_seen(self, data: st.DataObject, keys: list[bytes]) -> None:
        number = data.draw(st.sampled_from(sorted(self.seen)))
        assert self.store.get_seen(number, keys) == [self.seen[number].get(key) for key in keys]

    @rule()
    def sync(self) -> None:
        self.store.sync()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.world.open()
        assert self.store.store_id == self.store_id

    @rule(family=FAMILIES)
    def scan_all(self, family: Family) -> None:
        assert list(self.store.scan_all(family)) == sorted(self.families[family].items())

    @invariant()
    def generations_newest_first(self) -> None:
        if hasattr(self, "store"):
            assert self.store.generations() == sorted(self.seen, reverse=True)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for family in Family:
                assert list(self.store.scan_all(family)) == sorted(self.families[family].items())
            self.store.close()
            self.world.close()


class ShardStoreContract:
    """Facts that are worth a sentence of their own. A subclass gives the fixture `store`."""

    def test_rows_of_families_do_not_meet(self, store: ShardStore) -> None:
        families = [family for family in Family if family is not Family.META]
        batch = store.batch()
        for number, family in enumerate(families):
            batch.put(family, b"key", bytes([number]))
        store.write(batch)
        for number, family in enumerate(families):
            assert store.get(family, b"key") == bytes([number])
            assert list(store.scan_all(family)) == [(b"key", bytes([number]))]

    def test_the_empty_key_is_the_first_and_an_empty_value_is_no_absence(self, store: ShardStore) -> None:
        _put(store, Family.READY, {b"\0": b"", b"": b"", b"\xff\xff": b""})
        assert store.seek(Family.READY, b"") == b""
        assert store.get(Family.READY, b"") == b""
        assert store.scan(Family.READY, b"", b"\xff\xff", 9) == [(b"", b""), (b"\0", b"")]
        assert store.seek(Family.READY, b"\xff\xff\0") is None

    def test_a_batch_acts_in_its_own_order(self, store: ShardStore) -> None:
        _put(store, Family.OUTBOX, {b"a": b"old", b"b": b"old"})
        batch = store.batch()
        batch.put(Family.OUTBOX, b"c", b"put, then in the range")
        batch.delete_range(Family.OUTBOX, b"a", b"z")
        batch.put(Family.OUTBOX, b"b", b"after the range")
        batch.put(Family.OUTBOX, b"d", b"put, then deleted")
        batch.delete(Family.OUTBOX, b"d")
        store.write(batch)
        assert list(store.scan_all(Family.OUTBOX)) == [(b"b", b"after the range")]

    def test_an_empty_range_deletes_nothing_and_harms_nothing(self, store: ShardStore) -> None:
        _put(store, Family.OUTBOX, {b"a": b"1", b"b": b"2"})
        batch = store.batch()
        batch.delete_range(Family.OUTBOX, b"b", b"a")
        batch.delete_range(Family.OUTBOX, b"a", b"a")
        store.write(batch)
        _put(store, Family.OUTBOX, {b"c": b"3"})
        assert [key for key, _ in store.scan_all(Family.OUTBOX)] == [b"a", b"b", b"c"]

    def test_order_is_that_of_bytes(self, store: ShardStore) -> None:
        keys = [number.to_bytes(8, "big") for number in (0, 1, 255, 256, 65_535, 2**63, 2**64 - 1)]
        _put(store, Family.DUE, dict.fromkeys(reversed(keys), b""))
        assert [key for key, _ in store.scan_all(Family.DUE)] == keys

    def test_all_rows_come_out_of_a_scan_of_many_pages(self, store: ShardStore) -> None:
        keys = [number.to_bytes(2, "big") for number in range(2_500)]
        _put(store, Family.PENDING, {key: key for key in keys})
        assert [key for key, _ in store.scan_all(Family.PENDING)] == keys

    def test_a_dropped_generation_comes_back_empty(self, store: ShardStore) -> None:
        store.add_generation(7)
        batch = store.batch()
        batch.put_seen(7, b"key", b"value")
        store.write(batch)
        store.drop_generation(7)
        store.add_generation(7)
        assert store.get_seen(7, [b"key"]) == [None]

    def test_an_unknown_generation_is_a_mistake_and_harms_nothing(self, store: ShardStore) -> None:
        batch = store.batch()
        with pytest.raises(KeyError):
            batch.put_seen(1, b"key", b"value")
        with pytest.raises(KeyError):
            store.get_seen(1, [b"key"])
        _put(store, Family.READY, {b"key": b""})

    def test_a_batch_is_not_written_across_the_drop_of_a_generation(self, store: ShardStore) -> None:
        store.add_generation(1)
        batch = store.batch()
        batch.put_seen(1, b"key", b"value")
        store.drop_generation(1)
        with pytest.raises(AssertionError, match="dropped"):
            store.write(batch)
        _put(store, Family.READY, {b"key": b""})

    def test_a_batch_is_written_once(self, store: ShardStore) -> None:
        batch = store.batch()
        store.write(batch)
        with pytest.raises(AssertionError, match="once"):
            store.write(batch)

    def test_closing_twice_does_nothing(self, store: ShardStore) -> None:
        store.close()
        store.close()


def _put(store: ShardStore, family: Family, rows: dict[bytes, Any]) -> None:
    batch = store.batch()
    for key, value in rows.items():
        batch.put(family, key, value)
    store.write(batch)
