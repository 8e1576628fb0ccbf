"""What a shard store is, written into it when it is made: format, id, shard, number of shards.

It stands in family `meta` under keys that begin with `_store.`; the engine's own keys never do. Opening a
directory as another shard, with another number of shards or with another format is refused before anything
is changed.

The values are ASCII, so that a person can read them with any RocksDB tool.
"""

from collections.abc import Callable

import msgspec

from schemas.errors import DamagedStore, FormatMismatch

FORMAT_VERSION = 1

_FORMAT = b"_store.format"
_ID = b"_store.id"
_SHARD = b"_store.shard"
_SHARD_COUNT = b"_store.shard_count"


class StoreIdentity(msgspec.Struct, frozen=True):
    """Names one store.

    Attributes:
        store_id: 32 hexadecimal characters, drawn when the directory is made.
        shard: 0 <= shard < shard_count.
        shard_count: fixed for the life of the cluster.
    """

    store_id: str
    shard: int
    shard_count: int

    def rows(self) -> list[tuple[bytes, bytes]]:
        """Returns the rows of family `meta` that say all this."""
        return [
            (_FORMAT, str(FORMAT_VERSION).encode()),
            (_ID, self.store_id.encode()),
            (_SHARD, str(self.shard).encode()),
            (_SHARD_COUNT, str(self.shard_count).encode()),
        ]


def read_identity(get: Callable[[bytes], bytes | None], where: str) -> StoreIdentity | None:
    """Returns the identity that a store carries; None when it carries none, as while it is being made.

    Args:
        get: reads a row of family `meta`.
        where: names the store in error messages.

    Raises:
        FormatMismatch: the store has a format that this version does not know.
        DamagedStore: some of the rows are there and some are not.
    """
    version, store_id, shard, shard_count = get(_FORMAT), get(_ID), get(_SHARD), get(_SHARD_COUNT)
    if version is None and store_id is None and shard is None and shard_count is None:
        return None
    if version is None or store_id is None or shard is None or shard_count is None:
        raise DamagedStore(
            f"{where} does not say whose it is: rows under {_FORMAT[:7]!r} in meta are missing"
        )
    if version != str(FORMAT_VERSION).encode():
        raise FormatMismatch(
            f"{where} has store format {version!r}, this version reads format {FORMAT_VERSION}; "
            f"start the version that wrote it"
        )
    return StoreIdentity(store_id.decode(), int(shard), int(shard_count))


def check_identity(found: StoreIdentity, shard: int, shard_count: int, where: str) -> None:
    """Refuses a store that was made for another shard or another number of shards.

    Raises:
        FormatMismatch: with what it was made for, and what was asked for.
    """
    if (found.shard, found.shard_count) != (shard, shard_count):
        raise FormatMismatch(
            f"{where} was made for shard {found.shard} of {found.shard_count}, but is opened as shard "
            f"{shard} of {shard_count}; the number of shards is fixed when the data directory is made"
        )
