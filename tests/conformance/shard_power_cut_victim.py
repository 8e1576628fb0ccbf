"""A process that writes to a shard store, syncs it now and then, and tells what was synced, for a trace.

`python -m tests.conformance.shard_power_cut_victim DIRECTORY BATCHES`

Memtables are tiny, so that tables, new write-ahead logs and deleted ones fall between the syncs. "synced N"
says that batch N was written before a sync that has returned.
"""

import os
import sys
from pathlib import Path
from threading import Event, Thread

from operators.shard.store_port import ShardStore
from tests.conformance.shard_store_victim import open_store, write_batch

SYNC_EVERY_S = 0.004


def main() -> None:
    """Writes while another thread syncs, then closes the store."""
    directory, batches = Path(sys.argv[1]), int(sys.argv[2])
    store = open_store(directory)
    os.write(1, b"opened\n")
    written = [-1]
    stopping = Event()
    syncing = Thread(target=_keep_syncing, args=(store, written, stopping))
    syncing.start()
    for number in range(batches):
        write_batch(store, number)
        written[0] = number
    stopping.set()
    syncing.join()
    store.close()
    os.write(1, b"synced %d\n" % (batches - 1))


def _keep_syncing(store: ShardStore, written: list[int], stopping: Event) -> None:
    while not stopping.wait(SYNC_EVERY_S):
        number = written[0]
        store.sync()
        os.write(1, b"synced %d\n" % number)


if __name__ == "__main__":
    main()
