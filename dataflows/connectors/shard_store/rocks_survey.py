"""What is asked of a shard's directory before it is opened for writing: is it the one, and is it whole?

RocksDB heals a directory while it opens it: it replays the WAL, writes tables and deletes WAL files.
Afterwards nobody can tell what was missing. So the directory is first opened read-only, which changes
nothing, with two of its families (0.02 s for 4 MB of WAL); what that says is held against the WAL ledger
and against what was asked for.

The ring: the row `_store.batch.<number modulo RING_ROWS>` of the default family holds the number of the batch
that wrote it. A batch that is missing among the newest ones is seen by its number not being there, which the
count alone (a row that the next batch overwrites) cannot tell.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rocksdict import AccessType, Rdict

from dataflows.connectors.rocks_failure import translated
from dataflows.connectors.shard_store.rocks_options import StoreMemory, database_options, family_options
from dataflows.connectors.shard_store.store_identity import StoreIdentity, check_identity, read_identity
from dataflows.connectors.shard_store.wal_ledger import (
    LEDGER_FILE,
    RING_ROWS,
    LedgerEntry,
    WalLedger,
    wal_lengths,
)
from operators.shard.store_port import Family
from schemas.errors import DamagedStore, FormatMismatch, HooktideError

CURRENT_FILE = "CURRENT"
WAL_DIRECTORY = "wal"
SEEN_PREFIX = "seen."
BATCHES_KEY = b"_store.batches"
COUNT_BYTES = 8
DAMAGE_FILE = "damaged"
"""Made when damage is met in an open store; says what it was, and by its own time when."""
_RING_KEYS = tuple(b"_store.batch." + slot.to_bytes(2, "big") for slot in range(RING_ROWS))


def batch_count(raw: bytes | None) -> int:
    """Returns how many batches a store has taken, from the row that counts them."""
    return int.from_bytes(raw, "big") if raw is not None else 0


def ring_key(number: int) -> bytes:
    """Returns the key under which a batch leaves its number."""
    return _RING_KEYS[number % RING_ROWS]


def check_unmarked(directory: Path) -> None:
    """Refuses a store in which damage was met while it was open: reading all of it would find it again.

    Raises:
        DamagedStore: with what was met.
        StoreUnavailable: the file system says no.
    """
    try:
        met = (directory / DAMAGE_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise translated(error, "opening the shard store", directory) from error
    raise DamagedStore(f"the shard store in {directory} was damaged when it was last open: {met.strip()}")


def check_empty(directory: Path, ledger: WalLedger) -> None:
    """Refuses a directory that was a store and has lost its beginning: RocksDB would make a new one in it.

    Raises:
        DamagedStore: files of a store are there, but the one that all starts from is not.
    """
    # Making a store that was cut short leaves a MANIFEST at most: the rest comes after CURRENT.
    remains = [*directory.glob("*.sst"), *(directory / WAL_DIRECTORY).glob("*.log")]
    if ledger.last is not None or remains:
        raise DamagedStore(
            f"opening the shard store in {directory}: its file {CURRENT_FILE} is missing; restore the whole "
            f"directory or move it aside"
        )


class _Survey(NamedTuple):
    """What a store says of itself when it is opened read-only, with its WAL replayed."""

    families: set[str]
    wal_needed_min: int
    batches: int
    gap: int | None
    identity: StoreIdentity | None


def check_whole(
    directory: Path, ledger: WalLedger, memory: StoreMemory, shard: int, shard_count: int
) -> list[int]:
    """Refuses a store that is not whole, or not the one asked for; returns its `seen` generations.

    Raises:
        DamagedStore: something that was synced is missing or damaged.
        FormatMismatch: it was made for another shard, another number of shards, or by a newer version.
        StoreUnavailable: the file system says no.
    """
    where = f"the shard store in {directory}"
    try:
        survey = _read_only(directory, memory, ledger.last)
    except HooktideError:
        raise
    except Exception as error:
        raise translated(error, "opening the shard store", directory) from error
    if survey.identity is not None:
        check_identity(survey.identity, shard, shard_count, where)
    if (hole := _hole(directory, ledger.last, survey)) is not None:
        raise DamagedStore(
            f"{where} is not whole: {hole}. Move the directory aside; what it held comes back from the "
            f"log where the log has a second copy"
        )
    unknown = survey.families.difference({"default"}, (family.value for family in Family))
    numbers = {name: name.removeprefix(SEEN_PREFIX) for name in unknown}
    if strange := sorted(name for name, number in numbers.items() if not number.isdigit()):
        raise FormatMismatch(f"{where} has families that this version does not know: {strange}")
    return [int(number) for number in numbers.values()]


def _hole(directory: Path, entry: LedgerEntry | None, survey: _Survey) -> str | None:
    """Returns what is missing, in words; None when nothing is."""
    if entry is None:  # making the store was interrupted: its identity is its first batch
        return f"its {LEDGER_FILE} is blank" if survey.batches > 1 else None
    names = [name.removeprefix(SEEN_PREFIX) for name in survey.families]
    generations = [int(name) for name in names if name.isdigit()]
    try:
        found = wal_lengths(directory / WAL_DIRECTORY)
    except OSError as error:
        raise translated(error, "opening the shard store", directory) from error
    hole = entry.hole(found, survey.wal_needed_min, survey.batches, generations)
    if hole is None and survey.gap is not None:
        hole = f"batch {survey.gap} of {survey.batches} is missing"
    if hole is None and survey.identity is None:
        hole = "it does not say whose it is"
    return hole


def _first_gap(get: Callable[[bytes], bytes | None], numbers: range) -> int | None:
    for number in numbers:
        if get(ring_key(number)) != number.to_bytes(COUNT_BYTES, "big"):
            return number
    return None


def _read_only(directory: Path, memory: StoreMemory, entry: LedgerEntry | None) -> _Survey:
    options = database_options(memory, directory / WAL_DIRECTORY)
    names = set(Rdict.list_cf(str(directory), options))
    has_meta = Family.META.value in names  # not yet, if making the store was interrupted
    database = Rdict(
        str(directory),
        options,
        column_families={Family.META.value: family_options(memory)} if has_meta else {},
        access_type=AccessType.read_only(error_if_log_file_exist=False),
    )
    try:
        needed_min = database.property_int_value("rocksdb.min-log-number-to-keep") or 0
        batches = batch_count(database.get(BATCHES_KEY))
        gap = _first_gap(database.get, entry.unsynced(batches)) if entry is not None else None
        identity = None
        if has_meta:
            meta = database.get_column_family(Family.META.value)
            identity = read_identity(meta.get, f"the shard store in {directory}")
        return _Survey(names, needed_min, batches, gap, identity)
    finally:
        database.close()
