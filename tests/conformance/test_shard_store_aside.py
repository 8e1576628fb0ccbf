"""A damaged shard store is set aside, said so until the new one is claimed, and never deleted."""

import json
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.rocks_survey import DAMAGE_FILE
from dataflows.connectors.shard_store.setting_aside import Opened, asides, open_or_set_aside
from operators.shard.store_port import Family, ShardStore
from schemas.errors import DamagedShard, DamagedStore, DirectoryInUse, FormatMismatch, StoreUnavailable
from tests.conformance.shard_store_victim import key_of, write_batch

NOW_MS = 1_800_000_000_000
ROWS = 30


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A closed store with some rows, in tables."""
    directory = tmp_path / "shards" / "0001"
    for first in (0, ROWS):
        store = RocksStore.open(directory, shard=1, shard_count=8)
        for number in range(first, first + ROWS):
            write_batch(store, number)
        store.close()
    return directory


def _open(directory: Path) -> Opened:
    return open_or_set_aside(directory, shard=1, shard_count=8, now_ms=NOW_MS)


def _damage(directory: Path) -> None:
    (directory / "CURRENT").unlink()


def _is_empty(store: ShardStore) -> bool:
    return list(store.scan_all(Family.PENDING)) == []


class TestSettingAside:
    def test_a_sound_store_is_opened_and_nothing_is_said(self, directory: Path) -> None:
        opened = _open(directory)
        assert (opened.aside, opened.reason) == (None, "")
        assert not _is_empty(opened.store)
        opened.settle()
        opened.store.close()
        assert [path.name for path in directory.parent.iterdir()] == ["0001"]

    def test_a_damaged_one_is_moved_whole_and_an_empty_one_takes_its_place(self, directory: Path) -> None:
        _damage(directory)
        files = sorted(path.name for path in directory.iterdir())
        with capture_logs() as lines:
            opened = _open(directory)
        assert opened.aside == directory.with_name("0001.damaged-1")
        assert sorted(path.name for path in opened.aside.iterdir()) == files
        assert "CURRENT is missing" in opened.reason
        assert _is_empty(opened.store)
        assert [line["event"] for line in lines] == ["shard_store_set_aside"]
        opened.store.close()

    def test_it_is_said_at_every_opening_until_it_is_settled(self, directory: Path) -> None:
        _damage(directory)
        first = _open(directory)
        store_id = first.store.store_id
        first.store.close()
        again = _open(directory)
        assert (again.aside, again.reason, again.store.store_id) == (first.aside, first.reason, store_id)
        again.settle()
        again.settle()
        again.store.close()
        settled = _open(directory)
        assert settled.aside is None
        assert settled.store.store_id == store_id
        settled.store.close()

    @pytest.mark.parametrize("died", ["before the rename", "after the rename"])
    def test_a_kill_on_the_way_is_gone_on_from(self, directory: Path, died: str) -> None:
        _damage(directory)
        _open(directory).store.close()
        shutil.rmtree(directory)
        if died == "before the rename":
            directory.with_name("0001.damaged-1").rename(directory)
        opened = _open(directory)
        assert opened.aside == directory.with_name("0001.damaged-1")
        assert _is_empty(opened.store)
        opened.store.close()
        assert asides(directory) == [opened.aside]

    def test_a_lost_directory_is_not_excused_by_what_was_set_aside_once(self, directory: Path) -> None:
        _damage(directory)
        opened = _open(directory)
        opened.settle()
        opened.store.close()
        shutil.rmtree(directory)
        lost = _open(directory)
        assert lost.aside is None
        lost.store.close()

    def test_older_ones_are_never_overwritten_and_from_ten_on_it_is_said(self, directory: Path) -> None:
        whole = shutil.copytree(directory, directory.parent.parent / "whole")
        directory.with_name("0001.damaged-x").mkdir()
        directory.with_name("00010.damaged-77").mkdir()
        names = []
        for number in range(1, 11):
            shutil.rmtree(directory)
            shutil.copytree(whole, directory)
            _damage(directory)
            (directory / "mark").write_text(str(number))
            with capture_logs() as lines:
                opened = _open(directory)
            opened.store.close()
            names.append(opened.aside)
            assert ("10 are there" in lines[0]["advice"]) == (number == 10)
        assert asides(directory) == names
        assert [(path / "mark").read_text() for path in asides(directory)] == [str(n) for n in range(1, 11)]

    def test_a_damaged_note_still_counts(self, directory: Path) -> None:
        _damage(directory)
        opened = _open(directory)
        opened.store.close()
        note = directory.with_name("0001.set-aside")
        assert json.loads(note.read_text())["at_ms"] == NOW_MS
        note.write_bytes(b"?")
        opened = _open(directory)
        assert opened.aside is not None
        opened.settle()
        opened.store.close()
        assert not note.exists()


class TestWhatIsLeftWhereItIs:
    def test_a_store_in_use(self, directory: Path) -> None:
        store = RocksStore.open(directory, shard=1, shard_count=8)
        with pytest.raises(DirectoryInUse):
            _open(directory)
        store.close()
        assert asides(directory) == []

    def test_another_shards_store(self, directory: Path) -> None:
        with pytest.raises(FormatMismatch):
            open_or_set_aside(directory, shard=2, shard_count=8, now_ms=NOW_MS)
        assert asides(directory) == []

    def test_a_path_that_is_no_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreUnavailable):
            _open(tmp_path / "file")
        assert asides(tmp_path / "file") == []


class TestDamageMetLater:
    def _flip_tables(self, directory: Path) -> None:
        """Damages the first block of every table but those that opening reads."""
        for table in directory.glob("*.sst"):
            raw = bytearray(table.read_bytes())
            if b"_store." not in raw:
                raw[20] ^= 8
                table.write_bytes(raw)

    def test_it_ends_the_process_and_the_next_opening_knows(self, directory: Path) -> None:
        self._flip_tables(directory)
        opened = _open(directory)
        assert opened.aside is None, "a table is read when its rows are"
        with pytest.raises(DamagedShard, match=r"block checksum mismatch.*\.sst"):
            list(opened.store.scan_all(Family.PENDING))
        opened.store.close()
        assert ".sst" in (directory / DAMAGE_FILE).read_text()
        with pytest.raises(DamagedStore, match=r"when it was last open.*checksum"):
            RocksStore.open(directory, shard=1, shard_count=8)
        again = _open(directory)
        assert again.aside is not None
        assert "checksum" in again.reason
        again.store.close()

    def test_a_compaction_that_meets_it_refuses_every_later_write(self, directory: Path) -> None:
        self._flip_tables(directory)
        store = RocksStore.open(directory, shard=1, shard_count=8)
        reader = store._readers[Family.PENDING]
        reader.compact_range(None, None)  # says nothing by itself
        batch = store.batch()
        batch.put(Family.META, b"key", key_of(1))
        with pytest.raises(DamagedShard, match="Corruption"):
            store.write(batch)
        store.close()
        assert (directory / DAMAGE_FILE).exists()
