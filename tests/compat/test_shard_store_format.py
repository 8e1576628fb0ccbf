"""A shard store that format 1 wrote opens, and says the same.

`shard_store_v1` is a directory as `RocksStore` leaves it, without the files that RocksDB makes anew (its
lock, its options, its own log). It is never made again: a new format gets a directory of its own beside it.
"""

import shutil
from pathlib import Path

import pytest

from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.wal_ledger import LedgerEntry, WalLedger
from operators.shard.store_port import Family
from schemas.errors import FormatMismatch

GOLDEN = Path(__file__).parent / "shard_store_v1"
STORE_ID = "f68b330081b4daeb57d88b82a18bd648"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "shard"))


def test_rows_generations_and_identity_are_read(directory: Path) -> None:
    store = RocksStore.open(directory, shard=3, shard_count=8)
    assert store.store_id == STORE_ID
    for number, family in enumerate(Family):
        assert store.get(family, b"key") == b"value %d" % number
    assert [key for key, _ in store.scan_all(Family.OUTBOX)] == [b"key"]
    assert store.generations() == [2, 1]
    assert store.get_seen(1, [b"id"]) == [b"seen 1"]
    assert store.get_seen(2, [b"id"]) == [b"seen 2"]
    assert list(store.scan_all(Family.META)) == [
        (b"_store.format", b"1"),
        (b"_store.id", STORE_ID.encode()),
        (b"_store.shard", b"3"),
        (b"_store.shard_count", b"8"),
        (b"key", b"value 5"),
    ]
    store.close()


def test_the_ledger_is_read(directory: Path) -> None:
    ledger = WalLedger.open(directory / "wal.ledger", may_create=False)
    assert ledger.last == LedgerEntry(number=2, wal_floor=0, batches=3, wals=((4, 357),))
    ledger.close()


def test_another_shard_is_refused(directory: Path) -> None:
    with pytest.raises(FormatMismatch):
        RocksStore.open(directory, shard=3, shard_count=64)
