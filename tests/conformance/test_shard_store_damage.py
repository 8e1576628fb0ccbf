"""What a shard's directory survives, and what it refuses: kills, torn tails, holes, bad bits, full disks."""

import random
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocksdict import Rdict

from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.rocks_options import StoreMemory, database_options
from dataflows.connectors.shard_store.wal_ledger import LEDGER_FILE, LedgerEntry, WalLedger, wal_lengths
from operators.shard.store_port import Family
from schemas.errors import DamagedStore, DirectoryInUse, FormatMismatch, StoreUnavailable
from tests.conformance.shard_store_victim import check, key_of, open_store, write_batch

ROOT = Path(__file__).parents[2]
BATCHES = 30
SLOT_BYTES = 4096
FILE_BYTES_MAX = 150_000  # more than RocksDB's own files, less than the WAL becomes


def _open(directory: Path, memtable_bytes: int = 1 << 20) -> RocksStore:
    return RocksStore.open(
        directory, shard=1, shard_count=8, memory=StoreMemory(memtable_bytes=memtable_bytes)
    )


def _wal(directory: Path) -> Path:
    """Returns the newest WAL file."""
    return max((directory / "wal").glob("*.log"))


def _flip(file: Path, position: int, bit: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[position] ^= 1 << bit
    file.write_bytes(raw)


READS: dict[str, Callable[[RocksStore], object]] = {
    "scan_all": lambda store: list(store.scan_all(Family.PENDING)),
    "scan": lambda store: store.scan(Family.PENDING, b"", b"\xff", 1_000),
    "seek": lambda store: store.seek(Family.PENDING, b""),
    "get": lambda store: store.get(Family.PENDING, key_of(1)),
    "get_many": lambda store: store.get_many(Family.PENDING, [key_of(1), key_of(2)]),
    "get_seen": lambda store: store.get_seen(0, [key_of(1)]),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with BATCHES synced batches in its WAL."""
    directory = tmp_path_factory.mktemp("written") / "shard-1"
    store = _open(directory)
    for number in range(BATCHES):
        write_batch(store, number)
    store.close()
    return directory


@pytest.fixture(scope="module")
def half_synced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """A store as a power cut might leave it: some batches synced, some only written."""
    directory = tmp_path_factory.mktemp("half") / "shard-1"
    store = _open(directory)
    for number in range(10):
        write_batch(store, number)
    store.sync()
    synced = _wal(directory).stat().st_size
    for number in range(10, 20):
        write_batch(store, number)
    image = directory.with_name("image")
    shutil.copytree(directory, image)
    store.close()
    return image, synced, _wal(image).stat().st_size


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(written, tmp_path / "shard-1"))


class TestKills:
    def test_a_killed_process_leaves_a_whole_prefix_with_everything_written(self, tmp_path: Path) -> None:
        seed = random.SystemRandom().randrange(1 << 32)
        chance = random.Random(seed)
        directory = tmp_path / "shard-1"
        last = -1
        for life in range(8):
            told = tmp_path / f"told-{life}"
            with told.open("wb") as output:
                victim = subprocess.Popen(
                    [sys.executable, "-m", "tests.conformance.shard_store_victim", str(directory)],
                    cwd=ROOT,
                    stdout=output,
                )
                with pytest.raises(
                    subprocess.TimeoutExpired
                ):  # it dies at a random moment, also while opening
                    victim.wait(chance.uniform(0.2, 0.9))
                victim.kill()
                victim.wait()
            # The last line may be cut: it was written before the kill took effect, or it was not.
            numbers = told.read_bytes().split(b"\n")[:-1]
            last = int(numbers[-1]) if numbers else last
            if directory.exists():
                store = open_store(directory)
                found = check(store)
                assert found >= last, f"seed {seed}, life {life}"
                last = found
                store.close()
        assert last > BATCHES, f"the victim never got to work (seed {seed})"

    def test_any_older_ledger_beside_a_newer_store_opens(self, tmp_path: Path) -> None:
        # What a power cut leaves when the ledger's own page never reached the disk, but RocksDB's files did.
        directory = tmp_path / "shard-1"
        store = open_store(directory)
        ledgers = []
        for number in range(60):
            write_batch(store, number)
            if number % 12 == 0:
                store.sync()
                ledgers.append((directory / LEDGER_FILE).read_bytes())
        store.close()
        assert all(ledger != ledgers[-1] for ledger in ledgers[:-1])
        for ledger in ledgers:
            (directory / LEDGER_FILE).write_bytes(ledger)
            store = open_store(directory)
            assert check(store) == 59
            store.close()


class TestTornTails:
    @given(data=st.data())
    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_tail_cut_above_what_was_synced_opens_with_a_whole_prefix(
        self, half_synced: tuple[Path, int, int], tmp_path: Path, data: st.DataObject
    ) -> None:
        image, synced, written = half_synced
        left = data.draw(st.integers(synced, written))
        directory = _fresh_copy(image, tmp_path)
        with _wal(directory).open("r+b") as wal:
            wal.truncate(left)
        store = _open(directory)
        assert 9 <= check(store) <= 19
        assert (check(store) == 19) == (left == written)
        store.close()

    @pytest.mark.parametrize("missing", [1, 100, 2_000])
    def test_a_tail_cut_below_what_was_synced_is_refused(
        self, half_synced: tuple[Path, int, int], tmp_path: Path, missing: int
    ) -> None:
        image, synced, _ = half_synced
        directory = _fresh_copy(image, tmp_path)
        with _wal(directory).open("r+b") as wal:
            wal.truncate(synced - missing)
        with pytest.raises(DamagedStore, match="of it were synced"):
            _open(directory)


class TestHoles:
    def test_a_missing_older_wal_is_refused(self, tmp_path: Path) -> None:
        directory = tmp_path / "shard-1"
        store = _open(directory)
        write_batch(store, 0)
        store._database.flush()  # the default family alone: the old WAL is still needed
        write_batch(store, 1)
        store.close()
        older, newer = sorted((directory / "wal").glob("*.log"))
        assert older.stat().st_size
        assert newer.stat().st_size
        whole = _fresh_copy(directory, tmp_path / "whole")
        older.unlink()
        with pytest.raises(DamagedStore, match=f"{older.name} is missing"):
            _open(directory)
        store = _open(whole)
        assert check(store) == 1
        store.close()

    @pytest.mark.parametrize("lost_bytes", [1, 500, 4_000])
    def test_an_older_wal_that_lost_its_unsynced_end_is_refused_when_a_newer_one_is_there(
        self, tmp_path: Path, lost_bytes: int
    ) -> None:
        # What a power cut may leave between two syncs. RocksDB alone opens it, without the middle (tried).
        directory = tmp_path / "shard-1"
        store = _open(directory)
        write_batch(store, 0)
        store.sync()
        for number in range(1, 6):
            write_batch(store, number)
        store._readers[Family.META].flush()
        write_batch(store, 6)
        image = _fresh_copy(directory, tmp_path / "image")
        store.close()
        older, _ = sorted((image / "wal").glob("*.log"))
        with older.open("r+b") as wal:
            wal.truncate(older.stat().st_size - lost_bytes)
        with pytest.raises(DamagedStore, match=r"batch \d of 8 is missing"):
            _open(image)

    def test_a_blank_ledger_beside_a_store_with_batches_is_refused(self, copy: Path) -> None:
        ledger = copy / LEDGER_FILE
        ledger.write_bytes(bytes(len(ledger.read_bytes())))
        with pytest.raises(DamagedStore, match="blank"):
            _open(copy)

    @given(
        position=st.one_of(st.integers(0, 64), st.integers(0, BATCHES * 2_000)),
        bit=st.integers(0, 7),
    )
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_flipped_bit_in_the_wal_is_refused(
        self, written: Path, tmp_path: Path, position: int, bit: int
    ) -> None:
        directory = _fresh_copy(written, tmp_path)
        wal = _wal(directory)
        _flip(wal, position % wal.stat().st_size, bit)
        with pytest.raises(DamagedStore):
            _open(directory)

    def test_a_length_that_points_beyond_the_end_is_no_torn_tail(self, copy: Path) -> None:
        # RocksDB alone opens this, with the batches before it (tried): only the count of batches tells.
        wal = _wal(copy)
        raw = wal.read_bytes()
        block = (len(raw) - 1) // 32_768 * 32_768
        assert block, "the damaged record is in the last block, and there are others before it"
        wal.write_bytes(raw[: block + 4] + b"\xff\x7f" + raw[block + 6 :])
        with pytest.raises(DamagedStore, match="batches were synced"):
            _open(copy)

    def test_a_manifest_that_lost_its_end_is_refused(self, tmp_path: Path) -> None:
        directory = tmp_path / "shard-1"
        store = open_store(directory)
        manifest = max(directory.glob("MANIFEST-*"))
        at_opening = manifest.stat().st_size
        number = 0
        while not list(directory.glob("*.sst")) or len(wal_lengths(directory / "wal")) > 1:
            write_batch(store, number)
            store.sync()
            number += 1
        write_batch(store, number)
        store.close()
        with manifest.open("r+b") as file:
            file.truncate(at_opening)
        with pytest.raises(DamagedStore):
            open_store(directory)

    def test_a_missing_file_is_refused(self, copy: Path, tmp_path: Path) -> None:
        for name in ("CURRENT", "MANIFEST-*", LEDGER_FILE):
            directory = _fresh_copy(copy, tmp_path / "other")
            for file in directory.glob(name):
                file.unlink()
            with pytest.raises(DamagedStore):
                _open(directory)

    def test_the_ledger_survives_a_torn_slot_and_is_refused_when_both_are(self, copy: Path) -> None:
        ledger = copy / LEDGER_FILE
        raw = ledger.read_bytes()
        newest = 0 if raw[0:SLOT_BYTES] > raw[SLOT_BYTES:] else 1
        for slot in (newest, 1 - newest):
            torn = bytearray(raw)
            torn[slot * SLOT_BYTES + 12] ^= 0xFF
            ledger.write_bytes(torn)
            store = _open(copy)
            assert check(store) == BATCHES - 1
            store.close()
            raw = ledger.read_bytes()
        ledger.write_bytes(b"x" * len(raw))
        with pytest.raises(DamagedStore, match="unreadable"):
            _open(copy)


class TestTables:
    @pytest.fixture
    def tables(self, copy: Path) -> Path:
        """A store whose rows are in tables: opening one moves them there."""
        _open(copy).close()
        assert list(copy.glob("*.sst"))
        return copy

    def test_a_missing_or_short_table_is_refused(self, tables: Path, tmp_path: Path) -> None:
        def cut(file: Path) -> None:
            file.write_bytes(file.read_bytes()[:100])

        for damage in (Path.unlink, cut):
            directory = _fresh_copy(tables, tmp_path / "other")
            damage(max(directory.glob("*.sst"), key=lambda file: file.stat().st_size))
            with pytest.raises(DamagedStore):
                _open(directory)

    def test_a_damaged_block_is_an_error_and_never_a_short_answer(self, tables: Path, tmp_path: Path) -> None:
        whole = _open(_fresh_copy(tables, tmp_path / "whole"))
        refused: Counter[str] = Counter()
        for table in tables.glob("*.sst"):
            directory = _fresh_copy(tables, tmp_path / "damaged")
            _flip(directory / table.name, 20, 3)
            try:
                store = _open(directory)
            except DamagedStore:  # it was a table of `meta`
                refused["open"] += 1
                continue
            for name, read in READS.items():
                try:
                    assert read(store) == read(whole), name
                except DamagedStore:
                    refused[name] += 1
            store.close()
        whole.close()
        assert set(refused) == {"open", *READS}, "every way of reading has met a damaged block"


class TestOwnership:
    def test_an_open_directory_is_refused_to_others_and_stays_whole(self, copy: Path) -> None:
        store = _open(copy)
        with pytest.raises(DirectoryInUse, match="another process"):
            _open(copy)
        other = subprocess.run(
            [sys.executable, "-m", "tests.conformance.shard_store_victim", str(copy)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "DirectoryInUse" in other.stderr
        write_batch(store, BATCHES)
        store.close()
        store = _open(copy)
        assert check(store) == BATCHES
        store.close()

    @pytest.mark.parametrize(("shard", "shard_count"), [(0, 8), (1, 64)])
    def test_another_shard_or_count_is_refused_by_name_and_can_be_opened_rightly_after(
        self, copy: Path, shard: int, shard_count: int
    ) -> None:
        with pytest.raises(FormatMismatch, match=f"shard 1 of 8.* shard {shard} of {shard_count}") as refusal:
            RocksStore.open(copy, shard=shard, shard_count=shard_count)
        store = _open(copy)  # while the refusal, and with it its traceback, is still there
        assert check(store) == BATCHES - 1
        store.close()
        del refusal

    def test_a_newer_format_is_refused(self, copy: Path) -> None:
        store = _open(copy)
        batch = store.batch()
        batch.put(Family.META, b"_store.format", b"2")
        store.write(batch)
        store.close()
        with pytest.raises(FormatMismatch, match="format b'2', this version reads format 1"):
            _open(copy)

    def test_an_unknown_family_is_refused(self, copy: Path) -> None:
        store = _open(copy)
        store._database.create_column_family("ledger", database_options(StoreMemory(), copy / "wal"))
        store.close()
        with pytest.raises(FormatMismatch, match="ledger"):
            _open(copy)

    def test_a_store_whose_making_was_cut_short_is_made_anew(self, tmp_path: Path) -> None:
        directory = tmp_path / "shard-1"
        directory.mkdir()
        WalLedger.open(directory / LEDGER_FILE, may_create=True).close()
        Rdict(str(directory), database_options(StoreMemory(), directory / "wal")).close()
        store = _open(directory)
        assert len(store.store_id) == 32
        store.close()

    def test_ids_are_drawn_once_per_directory(self, tmp_path: Path) -> None:
        ids = []
        for name in ("a", "a", "b"):
            store = _open(tmp_path / name)
            ids.append(store.store_id)
            store.close()
        assert ids[0] == ids[1] != ids[2]


class TestUnavailable:
    def test_a_directory_that_cannot_be_made_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreUnavailable):
            _open(tmp_path / "file")

    def test_a_full_disk_is_unavailable_and_what_was_written_before_is_there(self, tmp_path: Path) -> None:
        # A limit on the size of files stands for the disk; the process that has it is another one.
        directory = tmp_path / "shard-1"
        _open(directory).close()
        victim = subprocess.run(
            [sys.executable, "-m", "tests.conformance.shard_store_victim", str(directory), str(1 << 20)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=_limit_files,
        )
        assert "StoreUnavailable" in victim.stderr
        assert "File too large" in victim.stderr
        store = _open(directory)
        assert check(store) == int(victim.stdout.split()[-1])
        store.close()


class TestThreads:
    def test_syncs_beside_writes_and_a_close_do_no_harm(self, tmp_path: Path) -> None:
        directory = tmp_path / "shard-1"
        store = open_store(directory)
        together = Barrier(3)

        def keep_syncing() -> None:
            together.wait()
            for _ in range(200):
                store.sync()  # the last ones meet a closed store

        threads = [Thread(target=keep_syncing) for _ in range(2)]
        for thread in threads:
            thread.start()
        together.wait()
        for number in range(100):
            write_batch(store, number)
        store.close()
        for thread in threads:
            thread.join()
        store = open_store(directory)
        assert check(store) == 99
        store.close()

    def test_a_sync_with_nothing_new_writes_nothing(self, tmp_path: Path) -> None:
        store = _open(tmp_path / "shard-1")
        write_batch(store, 0)
        store.sync()
        before = (tmp_path / "shard-1" / LEDGER_FILE).read_bytes()
        store.sync()
        assert (tmp_path / "shard-1" / LEDGER_FILE).read_bytes() == before
        store.close()


class TestTuning:
    def test_rocksdb_took_the_options_that_correctness_rests_on(self, copy: Path) -> None:
        store = _open(copy)
        options = max(copy.glob("OPTIONS-*")).read_text()
        store.close()
        for line in (
            "atomic_flush=true",
            "wal_recovery_mode=kTolerateCorruptedTailRecords",
            "recycle_log_file_num=0",
            "manual_wal_flush=false",
            "compression=kLZ4Compression",
            "filter_policy=bloomfilter",
        ):
            assert line in options
        assert "atomic_flush=false" not in options


class TestLedger:
    @pytest.mark.parametrize(
        ("found", "needed_min", "batches", "hole"),
        [
            ([(8, 100), (12, 50)], 8, 7, None),
            ([(8, 100), (12, 51)], 8, 9, None),  # more was written after the entry
            ([(12, 50)], 9, 7, None),  # RocksDB flushed and deleted log 8 after the entry
            ([(16, 0)], 13, 7, None),  # and log 12
            ([(8, 10), (12, 50)], 9, 7, None),  # log 8 is not needed: its length says nothing
            ([(12, 50)], 8, 7, "000008.log is missing"),
            ([(8, 100)], 8, 7, "000012.log is missing"),
            ([(8, 100), (12, 49)], 8, 7, "000012.log has 49 bytes, 50"),
            ([(8, 100), (12, 50)], 4, 7, "MANIFEST has lost its end"),
            ([(8, 100), (12, 50)], 8, 6, "7 batches were synced, only 6"),
        ],
    )
    def test_holes(
        self, found: list[tuple[int, int]], needed_min: int, batches: int, hole: str | None
    ) -> None:
        entry = LedgerEntry(number=3, wal_floor=5, batches=7, wals=((8, 100), (12, 50)))
        said = entry.hole(found, needed_min, batches, ())
        assert said is None if hole is None else said is not None and hole in said

    def test_a_generation_that_the_manifest_has_forgotten_is_a_hole_and_one_more_is_none(self) -> None:
        entry = LedgerEntry(number=1, wal_floor=0, batches=7, wals=(), generations=(2, 3))
        assert entry.hole([], 0, 7, (2, 3, 4)) is None
        assert "generation 3 is missing" in str(entry.hole([], 0, 7, (2, 4)))

    def test_an_empty_wal_may_be_gone(self) -> None:
        entry = LedgerEntry(number=1, wal_floor=0, batches=0, wals=((4, 0),))
        assert entry.hole([], 0, 0, ()) is None

    def test_entries_alternate_and_the_newest_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / LEDGER_FILE
        ledger = WalLedger.open(path, may_create=True)
        assert ledger.last is None
        for number in range(5):
            ledger.record(number, [(4, number)])
        ledger.close()
        assert path.stat().st_size == 2 * SLOT_BYTES
        ledger = WalLedger.open(path, may_create=False)
        assert ledger.last == LedgerEntry(5, 0, 4, ((4, 4),))
        ledger.close()

    def test_the_floor_follows_what_was_deleted(self, tmp_path: Path) -> None:
        ledger = WalLedger.open(tmp_path / LEDGER_FILE, may_create=True)
        floors = []
        for wals in ([4], [4, 8], [8], [8, 12], [16]):
            ledger.record(0, [(wal, 1) for wal in wals])
            assert ledger.last is not None
            floors.append(ledger.last.wal_floor)
        ledger.close()
        assert floors == [0, 0, 5, 5, 13]

    def test_more_files_than_a_slot_holds_are_cut_to_the_newest(self, tmp_path: Path) -> None:
        ledger = WalLedger.open(tmp_path / LEDGER_FILE, may_create=True)
        ledger.record(2**40, [(2**32 + wal, 2**40) for wal in range(1_000)])
        ledger.close()
        ledger = WalLedger.open(tmp_path / LEDGER_FILE, may_create=False)
        assert ledger.last is not None
        assert ledger.last.wals[-1] == (2**32 + 999, 2**40)
        ledger.close()


def _fresh_copy(directory: Path, under: Path) -> Path:
    """Copies a store to a place that is empty each time (Hypothesis calls many times with one tmp_path)."""
    copied = under / "fresh"
    shutil.rmtree(copied, ignore_errors=True)
    return Path(shutil.copytree(directory, copied))


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
