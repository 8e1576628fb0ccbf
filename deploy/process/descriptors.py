"""File descriptors: who in the process may have how many, so that together they never run out.

A store that cannot open a file is a dead flow, so descriptors are shared out at the start and not found to be
missing under load. First comes what a process cannot be without: its own files, the delivery log's, and the
databases with the fewest tables that RocksDB takes. Of the rest a quarter goes to the tables of the shards,
an eighth to the API's connections, and what is left makes slots, two for each: the connection of the request,
and one kept open for the next to the same endpoint.

Where the limit does not allow even the least, the start is refused with the number that would do. Running out
all the same (the machine's own limit) costs no attempt: the sender calls it our fault.

Source: /proc/<pid>/fd of an `up` under load; RocksDB's max_open_files (at least 20, of which 10 for tables).
"""

from typing import Final

from msgspec import Struct

from schemas.errors import Refused

FIXED: Final = 110
"""Libraries, loops, pipes, the log's and the idempotency store's own files, ClickHouse's while it merges."""
PER_STORE: Final = 20
"""What an open shard store has besides tables: its directories, WALs and ledger (14 measured)."""
TABLES_MIN: Final = 10
TABLES_MAX: Final = 246
NOT_TABLES: Final = 10
"""RocksDB keeps this many of max_open_files for other things."""
LOG_TABLES: Final = 54
API_MIN: Final = 16
API_MAX: Final = 4_096
SLOTS_MIN: Final = 8
SLOT: Final = 2


class SlotPlan(Struct, frozen=True):
    """How many requests may be in flight.

    Attributes:
        slots: never above what was asked for.
        descriptor_limit: what they were worked out from.
        is_lowered: whether the limit made them fewer.
    """

    slots: int
    descriptor_limit: int
    is_lowered: bool


class DescriptorPlan(Struct, frozen=True):
    """The shares.

    Attributes:
        slot_plan: of the sender.
        store_files_max: RocksDB's max_open_files of each shard store.
        api_connections_max: open at once.
    """

    slot_plan: SlotPlan
    store_files_max: int
    api_connections_max: int


def least_descriptors(shards: int) -> int:
    """Returns the limit below which a process with so many shards does not start."""
    databases = FIXED + LOG_TABLES + TABLES_MIN + shards * (PER_STORE + TABLES_MIN)
    return databases + API_MIN + SLOTS_MIN * SLOT


def plan_descriptors(slots_wanted: int, descriptor_limit: int, shards: int) -> DescriptorPlan:
    """Shares the descriptors out.

    Raises:
        Refused: there are too few.
    """
    least = least_descriptors(shards)
    rest = descriptor_limit - least
    if rest < 0:
        raise Refused(
            f"{descriptor_limit} file descriptors are too few for {shards} shards, {least} are the least: "
            f"raise ulimit -n (LimitNOFILE of systemd), or begin a data directory with fewer (log.shards)"
        )
    tables = min(TABLES_MAX, TABLES_MIN + rest // 4 // shards)
    connections = min(API_MAX, API_MIN + rest // 8)
    left = rest - shards * (tables - TABLES_MIN) - (connections - API_MIN)
    allowed = SLOTS_MIN + left // SLOT
    return DescriptorPlan(
        SlotPlan(min(slots_wanted, allowed), descriptor_limit, allowed < slots_wanted),
        tables + NOT_TABLES,
        connections,
    )
