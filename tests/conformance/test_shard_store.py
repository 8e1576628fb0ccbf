"""Both shard stores keep the contract; the one in memory also plays the disasters that RocksDB survives."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.connectors.shard_store.memory import MemoryStore
from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.rocks_options import StoreMemory
from operators.shard.store_port import Family, ShardStore
from tests.conformance.shard_store_contract import (
    ShardStoreContract,
    ShardStoreMachine,
    Step,
    steps,
)

# Flushes after a few large values, so that rows move through memtables, tables and levels during a test.
SMALL = StoreMemory(memtable_bytes=16 * 1024)


class RocksWorld:
    """A directory of its own."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hooktide-shard-"))

    def open(self) -> ShardStore:
        return RocksStore.open(self.directory / "shard-0", shard=0, shard_count=8, memory=SMALL)

    def close(self) -> None:
        shutil.rmtree(self.directory)


class MemoryWorld:
    """A store that is reopened in place."""

    def __init__(self) -> None:
        self.store = MemoryStore(shard=0, shard_count=8)

    def open(self) -> ShardStore:
        self.store.reopen()
        return self.store

    def close(self) -> None:
        """Leaves nothing behind."""


class RocksMachine(ShardStoreMachine):
    make_world = RocksWorld


class MemoryMachine(ShardStoreMachine):
    make_world = MemoryWorld


TestRocksMachine = RocksMachine.TestCase
TestRocksMachine.settings = settings(max_examples=20, stateful_step_count=30)
TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=60, stateful_step_count=30)


class TestRocksStore(ShardStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[ShardStore]:
        world = RocksWorld()
        store = world.open()
        yield store
        store.close()
        world.close()


class TestMemoryStore(ShardStoreContract):
    @pytest.fixture
    def store(self) -> ShardStore:
        return MemoryStore()


def _write(store: MemoryStore, batch_of: list[Step]) -> None:
    batch = store.batch()
    for step in batch_of:
        step.add_to(batch)
    store.write(batch)


def _image(store: MemoryStore) -> object:
    rows = {family: list(store.scan_all(family)) for family in Family}
    return rows, {number: store.get_seen(number, [b"", b"a", b"\xff"]) for number in store.generations()}


class TestDisasters:
    """What the simulator asks of the store in memory."""

    @given(
        before=st.lists(steps([1]), max_size=3),
        after=st.lists(steps([1]), max_size=5),
        data=st.data(),
    )
    @settings(max_examples=60)
    def test_a_power_cut_leaves_a_whole_prefix_of_batches_from_the_last_sync_on(
        self, before: list[list[Step]], after: list[list[Step]], data: st.DataObject
    ) -> None:
        store = MemoryStore()
        store.add_generation(1)
        for batch in before:
            _write(store, batch)
        store.sync()
        images = [_image(store)]
        for batch in after:
            _write(store, batch)
            images.append(_image(store))
        kept = data.draw(st.integers(0, len(after)))
        assert _image(store.after_power_cut(kept)) == images[kept]
        assert _image(store) == images[-1], "the store that is asked stays as it is"
        store.lose_unsynced(kept)
        assert _image(store) == images[kept]
        assert store.unsynced_batch_count == 0

    def test_a_drop_of_a_generation_survives_a_power_cut_that_takes_its_rows(self) -> None:
        store = MemoryStore()
        store.add_generation(1)
        batch = store.batch()
        batch.put_seen(1, b"a", b"")
        batch.put(Family.META, b"a", b"")
        store.write(batch)
        store.drop_generation(1)
        store.add_generation(2)
        store.lose_unsynced()
        assert store.generations() == [2]
        assert store.get(Family.META, b"a") is None

    def test_a_crash_loses_nothing_written_and_every_batch_begun(self) -> None:
        store = MemoryStore()
        begun = store.batch()
        _write(store, [Step("put", Family.PENDING, b"a", b"1")])
        store.crash()
        with pytest.raises(AssertionError, match="before the crash"):
            store.write(begun)
        assert store.get(Family.PENDING, b"a") == b"1"

    def test_an_old_copy_can_be_restored_and_is_not_touched_by_what_follows(self) -> None:
        store = MemoryStore(store_id="1" * 32)
        _write(store, [Step("put", Family.PENDING, b"a", b"1")])
        old = store.copy()
        store.add_generation(1)
        _write(store, [Step("put", Family.PENDING, b"b", b"2"), Step("put", 1, b"c", b"3")])
        assert old.generations() == []
        store.restore(old)
        _write(store, [Step("put", Family.PENDING, b"d", b"4")])
        assert [key for key, _ in store.scan_all(Family.PENDING)] == [b"a", b"d"]
        assert [key for key, _ in old.scan_all(Family.PENDING)] == [b"a"]
        assert (store.store_id, store.generations()) == ("1" * 32, [])
