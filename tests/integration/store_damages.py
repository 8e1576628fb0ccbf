"""Damages to a store's directory, drawn from a seed: cut, flipped, zeroed, deleted.

One damage per seed, as a bad disk, a power cut or a person's hand makes it. `draw` picks what and where, does
it, and says it in words that find the same bytes again.
"""

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

PAGE_BYTES = 4_096


class Kind(NamedTuple):
    """One kind of damage.

    Attributes:
        files: a glob in the directory.
        age: which of the files, by name: the newest, any of the older ones, the oldest, or any.
        how: does it; returns where.
    """

    name: str
    files: str
    age: str
    how: Callable[[Path, random.Random], str]


def _cut(file: Path, chance: random.Random) -> str:
    """Cuts the file anywhere; half of the time near its end."""
    length = file.stat().st_size
    kept = chance.randrange(length) if chance.random() < 0.5 else length - chance.randint(1, min(length, 300))
    with file.open("r+b") as opened:
        opened.truncate(kept)
    return f"cut to {kept} of {length} bytes"


def _flip(file: Path, chance: random.Random) -> str:
    raw = bytearray(file.read_bytes())
    position, bit = chance.randrange(len(raw)), chance.randrange(8)
    raw[position] ^= 1 << bit
    file.write_bytes(raw)
    return f"bit {bit} of byte {position} of {len(raw)} flipped"


def _zero(file: Path, chance: random.Random) -> str:
    raw = bytearray(file.read_bytes())
    page = chance.randrange((len(raw) + PAGE_BYTES - 1) // PAGE_BYTES) * PAGE_BYTES
    end = min(page + PAGE_BYTES, len(raw))
    raw[page:end] = bytes(end - page)
    file.write_bytes(raw)
    return f"bytes {page} to {end} of {len(raw)} zeroed"


def _blank(file: Path, _: random.Random) -> str:
    length = file.stat().st_size
    file.write_bytes(bytes(length))
    return f"all {length} bytes zeroed"


def _empty(file: Path, _: random.Random) -> str:
    file.write_bytes(b"")
    return "emptied"


def _delete(file: Path, _: random.Random) -> str:
    file.unlink()
    return "deleted"


def _delete_all(directory: Path, _: random.Random) -> str:
    shutil.rmtree(directory)
    return "deleted"


def cut_at(ends: Sequence[int]) -> Callable[[Path, random.Random], str]:
    """Returns a damage that cuts a file exactly behind one of its records."""

    def cut(file: Path, chance: random.Random) -> str:
        length = file.stat().st_size
        kept = chance.choice([end for end in ends if end < length] or [0])
        with file.open("r+b") as opened:
            opened.truncate(kept)
        return f"cut behind a record, to {kept} of {length} bytes"

    return cut


def draw(kinds: Sequence[Kind], directory: Path, seed: int, *, number: int) -> str:
    """Damages a directory; returns in words what was done.

    Args:
        seed: of every choice.
        number: of the kind, counted on from the last one: each kind comes as often.
    """
    chance = random.Random(seed)
    kind = kinds[number % len(kinds)]
    files = sorted(directory.glob(kind.files))
    assert files, f"there is nothing like {kind.files}"
    choice = {"newest": files[-1:], "older": files[:-1], "oldest": files[:1], "any": files}[kind.age]
    file = chance.choice([found for found in choice if found.stat().st_size])
    where = kind.how(file, chance)
    return f"seed {seed}: {kind.name}, {file.relative_to(directory)}: {where}"


def kinds_of_a_store(last_wal_ends: Sequence[int]) -> list[Kind]:
    """Returns what may befall a shard's store.

    Args:
        last_wal_ends: the lengths of the newest WAL behind its records.
    """
    wal, table, manifest = "wal/*.log", "*.sst", "MANIFEST-*"
    return [
        Kind("last WAL cut", wal, "newest", _cut),
        Kind("last WAL cut behind a record", wal, "newest", cut_at(last_wal_ends)),
        Kind("last WAL flipped", wal, "newest", _flip),
        Kind("last WAL deleted", wal, "newest", _delete),
        Kind("older WAL cut", wal, "older", _cut),
        Kind("older WAL flipped", wal, "older", _flip),
        Kind("older WAL deleted", wal, "older", _delete),
        Kind("older WAL emptied", wal, "older", _empty),
        Kind("WAL page zeroed", wal, "any", _zero),
        Kind("table flipped", table, "any", _flip),
        Kind("table flipped", table, "any", _flip),
        Kind("table page zeroed", table, "any", _zero),
        Kind("table cut", table, "any", _cut),
        Kind("table deleted", table, "any", _delete),
        Kind("MANIFEST flipped", manifest, "newest", _flip),
        Kind("MANIFEST cut", manifest, "newest", _cut),
        Kind("MANIFEST page zeroed", manifest, "newest", _zero),
        Kind("MANIFEST deleted", manifest, "newest", _delete),
        Kind("CURRENT flipped", "CURRENT", "any", _flip),
        Kind("CURRENT cut", "CURRENT", "any", _cut),
        Kind("CURRENT deleted", "CURRENT", "any", _delete),
        Kind("ledger flipped", "wal.ledger", "any", _flip),
        Kind("ledger page zeroed", "wal.ledger", "any", _zero),
        Kind("ledger blank", "wal.ledger", "any", _blank),
        Kind("ledger cut", "wal.ledger", "any", _cut),
        Kind("ledger deleted", "wal.ledger", "any", _delete),
        Kind("OPTIONS flipped", "OPTIONS-*", "any", _flip),
        Kind("OPTIONS deleted", "OPTIONS-*", "any", _delete),
        Kind("IDENTITY flipped", "IDENTITY", "any", _flip),
        Kind("IDENTITY deleted", "IDENTITY", "any", _delete),
        Kind("rocksdict's file flipped", "rocksdict-config.json", "any", _flip),
        Kind("rocksdict's file cut", "rocksdict-config.json", "any", _cut),
        Kind("rocksdict's file deleted", "rocksdict-config.json", "any", _delete),
    ]


def kinds_of_a_log() -> list[Kind]:
    """Returns what may befall the local log, whose every byte was synced before it was acknowledged."""
    wal, table, manifest = "db/*.log", "db/*.sst", "db/MANIFEST-*"
    return [
        Kind("last WAL cut", wal, "newest", _cut),
        Kind("last WAL flipped", wal, "newest", _flip),
        Kind("last WAL deleted", wal, "newest", _delete),
        Kind("WAL flipped", wal, "any", _flip),
        Kind("oldest WAL cut", wal, "oldest", _cut),
        Kind("oldest WAL deleted", wal, "oldest", _delete),
        Kind("WAL page zeroed", wal, "any", _zero),
        Kind("table flipped", table, "any", _flip),
        Kind("table flipped", table, "any", _flip),
        Kind("table page zeroed", table, "any", _zero),
        Kind("table cut", table, "any", _cut),
        Kind("table deleted", table, "any", _delete),
        Kind("MANIFEST flipped", manifest, "newest", _flip),
        Kind("MANIFEST cut", manifest, "newest", _cut),
        Kind("MANIFEST cut", manifest, "newest", _cut),
        Kind("MANIFEST cut", manifest, "newest", _cut),
        Kind("MANIFEST page zeroed", manifest, "newest", _zero),
        Kind("MANIFEST deleted", manifest, "newest", _delete),
        Kind("CURRENT flipped", "db/CURRENT", "any", _flip),
        Kind("CURRENT cut", "db/CURRENT", "any", _cut),
        Kind("CURRENT deleted", "db/CURRENT", "any", _delete),
        Kind("note flipped", "acknowledged", "any", _flip),
        Kind("note blank", "acknowledged", "any", _blank),
        Kind("note cut", "acknowledged", "any", _cut),
        Kind("OPTIONS flipped", "db/OPTIONS-*", "any", _flip),
        Kind("IDENTITY flipped", "db/IDENTITY", "any", _flip),
        Kind("rocksdict's file flipped", "db/rocksdict-config.json", "any", _flip),
        Kind("rocksdict's file cut", "db/rocksdict-config.json", "any", _cut),
        Kind("the database deleted", "db", "any", _delete_all),
    ]
