"""How the parts of an embedded process are made: the one seam of the composition root.

Everybody but the chaos harness takes the defaults. Its victim is the same process as `up`, with ports that
count calls and end the process at a named point; it hands them in here. No module that delivers anything
knows of it: there is no hook in the hot path, and no environment variable that could be left set.

Rejected: patching modules from outside (it breaks silently when a name moves), hooks inside the engine (they
would cost every delivery, and be one more thing that production must not use).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from dataflows.connectors.delivery_log.port import DeliveryLog
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from dataflows.connectors.sender.port import Sender
from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.rocks_options import StoreMemory


class OpenLog(Protocol):
    """Opens the local log; see `LocalLog.open`."""

    def __call__(
        self, directory: Path, *, partitions: Mapping[str, int], clock_ms: Callable[[], int], linger_ms: float
    ) -> LocalLog:
        """Opens it, or makes one."""


class OpenStore(Protocol):
    """Opens a shard's store; see `RocksStore.open`."""

    def __call__(
        self, directory: Path, *, shard: int, shard_count: int, memory: StoreMemory | None
    ) -> RocksStore:
        """Opens it, or makes one."""


def open_delivery_log(directory: Path) -> DeliveryLog:
    """Opens the delivery log of a data directory, and brings its tables up to date."""
    from dataflows.connectors.delivery_log.chdb import ChdbLog  # noqa: PLC0415 - 0.4 s, beside everything else

    delivery_log = ChdbLog(directory)
    delivery_log.migrate()
    return delivery_log


class Makers(NamedTuple):
    """What makes each port; the defaults are the real ones."""

    open_log: OpenLog = LocalLog.open
    open_store: OpenStore = RocksStore.open
    open_sender: Callable[[EgressPolicy], Sender] = open_aiohttp_sender
    open_delivery_log: Callable[[Path], DeliveryLog] = open_delivery_log


REAL = Makers()
