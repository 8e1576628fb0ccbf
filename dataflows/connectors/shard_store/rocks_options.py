"""How the RocksDB of a shard is tuned, and what the shards of one process share.

What matters for correctness: *atomic flush*, so that the column families are of one age even when the
newest WAL is cut; WAL recovery that takes a torn tail and nothing else (the default opens silently with
half of the acknowledged rows after one flipped byte: research/reliability.md section 0); no WAL recycling,
so that a length means something.

What matters for speed: `seen` has a bloom filter of 10 bits per key outside the block cache (a miss under 1
us; inside a small cache it is 20 times slower: research/components.md section 3). rocksdict holds the GIL
while it writes, so a write must never wait for RocksDB: more memtables and later stops than RocksDB's
defaults, files deleted in the background. Families that work as queues have their tables compacted when
half of the rows are tombstones.

What bounds memory: one block cache and one write buffer manager for all shards of the process.
"""

from pathlib import Path

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    WriteBufferManager,
)

MIB = 1 << 20

_BLOOM_BITS_PER_KEY = 10
_OPEN_FILES_MAX = 256
_INFO_LOG_FILES = 2


class StoreMemory:
    """The memory budget that the shard stores of one process share.

    Args:
        cache_bytes: block cache of all stores together.
        memtable_bytes_max: memtables of all stores together. A safety net: normally each store flushes by
            itself. It should be at least four times memtable_bytes for each store, because RocksDB makes
            the store that is writing flush, however much the others hold.
        memtable_bytes: one family's memtable; when one is full, all of its store are flushed. Also bounds
            the WAL, and so what a start after a crash replays (0.02 s per MiB).
        open_files_max: of each store; ten of them are for other files than tables.
    """

    def __init__(
        self,
        *,
        cache_bytes: int = 64 * MIB,
        memtable_bytes_max: int = 256 * MIB,
        memtable_bytes: int = 8 * MIB,
        open_files_max: int = _OPEN_FILES_MAX,
    ) -> None:
        self.cache = Cache(cache_bytes)
        self.write_buffers = WriteBufferManager(memtable_bytes_max, allow_stall=False)
        self.memtable_bytes = memtable_bytes
        self.open_files_max = open_files_max


def database_options(memory: StoreMemory, wal_directory: Path) -> Options:
    """Returns the options of the database, which are those of its default family too."""
    options = _family_options(memory, BlockBasedOptions())
    options.create_if_missing(create_if_missing=True)
    options.create_missing_column_families(create_missing_cfs=True)
    options.set_atomic_flush(True)
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_wal_dir(str(wal_directory))
    options.set_recycle_log_file_num(0)
    options.set_max_total_wal_size(8 * memory.memtable_bytes)
    options.set_write_buffer_manager(memory.write_buffers)
    options.set_avoid_unnecessary_blocking_io(True)
    options.set_max_open_files(memory.open_files_max)
    options.set_keep_log_file_num(_INFO_LOG_FILES)
    options.set_max_log_file_size(MIB)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def family_options(memory: StoreMemory) -> Options:
    """Returns the options of a family that is read by scans."""
    options = _family_options(memory, BlockBasedOptions())
    options.add_compact_on_deletion_collector_factory(8_192, 4_096, 0.5)
    return options


def seen_options(memory: StoreMemory) -> Options:
    """Returns the options of a `seen` generation, which is asked for single keys, mostly absent ones."""
    table = BlockBasedOptions()
    table.set_bloom_filter(_BLOOM_BITS_PER_KEY, block_based=False)
    options = _family_options(memory, table)
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(0.05)
    return options


def _family_options(memory: StoreMemory, table: BlockBasedOptions) -> Options:
    table.set_block_cache(memory.cache)
    table.set_cache_index_and_filter_blocks(False)
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(memory.memtable_bytes)
    options.set_max_write_buffer_number(4)
    options.set_level_zero_slowdown_writes_trigger(40)
    options.set_level_zero_stop_writes_trigger(80)
    return options
