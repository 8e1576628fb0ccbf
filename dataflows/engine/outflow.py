"""The way out of a flow that makes many records of one: taken in lazily, as the log acknowledges.

An event with 100,000 endpoints becomes 100,000 deliveries, and a block of such events would fill the memory
if the steps handed over finished lists. So the last steps are generators, and this object draws from them
while fewer than `entries_max` entries (and `bytes_max` bytes) are unacknowledged; the rest stays unmade. A
block's offset is acknowledged when its generator is exhausted and everything drawn from it is durable.

Blocks are drained one after the other, in the order they came, so the order inside every target partition is
the order of the source's partition.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from dataflows.connectors.log.port import Entry, TopicPartition
from dataflows.engine.block_source import Block
from dataflows.engine.ordered_appends import OrderedAppends
from dataflows.engine.positions import ContiguousAcks

ENTRIES_MAX = 20_000
BYTES_MAX = 64 << 20
PARCEL_ENTRIES = 1_000
PARCEL_BYTES = 1 << 20


Addressed = tuple[TopicPartition, Entry]
"""An entry and the partition it goes to; a plain tuple, because one is made for every delivery."""


class _Outgoing:
    """A block whose entries are being drawn; it is done when none is left and none is unacknowledged."""

    __slots__ = ("acks", "batches", "first", "is_drawn", "of", "parcels_open")

    def __init__(self, acks: ContiguousAcks, block: Block, batches: Iterator[list[Addressed]]) -> None:
        self.acks = acks
        self.of = block.of
        self.first = block.records[0].offset
        self.batches = batches
        self.parcels_open = 0
        self.is_drawn = False

    def on_durable(self, _first_offset: int) -> None:
        self.parcels_open -= 1
        self.settle()

    def settle(self) -> None:
        if self.is_drawn and self.parcels_open == 0:
            self.acks.acknowledge(self.of, self.first)


class Outflow:
    """Draws entries from blocks into the log, within bounds. Owned by the flow's thread.

    Args:
        appends: the way into the log.
        acks: told of what is durable.
        entries_max: drawn and not yet acknowledged.
        bytes_max: as `entries_max`, of their values.
        may_write: nothing more is drawn while it says no; what is drawn already goes on.
    """

    def __init__(
        self,
        appends: OrderedAppends,
        acks: ContiguousAcks,
        *,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._appends = appends
        self._acks = acks
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._may_write = may_write
        self._queue: deque[_Outgoing] = deque()

    @property
    def has_credit(self) -> bool:
        """Whether another block may be taken in: everything before it is drawn, and there is room."""
        return not self._queue and self._has_room()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to draw and nothing is unacknowledged."""
        return not self._queue and self._appends.entries_open == 0

    def take(self, block: Block, batches: Iterable[list[Addressed]]) -> None:
        """Takes in a block and the batches of entries that its records become, in order."""
        outgoing = _Outgoing(self._acks, block, iter(batches))
        self._acks.begin(outgoing.of, outgoing.first, block.next_offset)
        self._queue.append(outgoing)
        self._draw()

    def pump(self) -> None:
        """Takes in acknowledgements and draws on; called at every poll."""
        self._appends.pump()
        if self._queue:
            self._draw()

    def _has_room(self) -> bool:
        appends = self._appends
        is_below = appends.entries_open < self._entries_max and appends.bytes_open < self._bytes_max
        return is_below and self._may_write()

    def _draw(self) -> None:
        while self._queue and self._has_room():
            outgoing = self._queue[0]
            if not self._draw_parcels(outgoing):
                self._queue.popleft()
                outgoing.is_drawn = True
                outgoing.settle()

    def _draw_parcels(self, outgoing: _Outgoing) -> bool:
        """Appends about a parcel's worth; returns whether the block may have more."""
        parcels: dict[TopicPartition, list[Entry]] = {}
        entries_left, bytes_left = PARCEL_ENTRIES, PARCEL_BYTES
        has_more = False
        for batch in outgoing.batches:
            for to, entry in batch:
                parcel = parcels.get(to)
                if parcel is None:
                    parcels[to] = [entry]
                else:
                    parcel.append(entry)
                bytes_left -= len(entry.value or b"")
            entries_left -= len(batch)
            if entries_left <= 0 or bytes_left <= 0:
                has_more = True
                break
        outgoing.parcels_open += len(parcels)
        for to, entries in parcels.items():
            self._appends.put(to, entries, outgoing.on_durable)
        return has_more
