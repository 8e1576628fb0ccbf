"""How far the outbox is acknowledged: the contiguous prefix, and each topic's position behind it.

Rows are appended in order of their sequence within a topic, but topics answer at their own pace. Only the
prefix that every topic has acknowledged may be trimmed, and only positions behind it may be stored.
"""

from collections import deque
from collections.abc import Iterable, Sequence


class OutboxProgress:
    """Tracks acknowledgements of one shard's outbox.

    Attributes:
        published_sequence: every row up to it is acknowledged.
        positions: by topic, the offset after its last record in that prefix.
    """

    def __init__(self, published_sequence: int, positions: dict[str, int]) -> None:
        self.published_sequence = published_sequence
        self.positions = positions
        self._acked: set[int] = set()
        self._ends: dict[str, deque[tuple[int, int]]] = {}

    def acked(self, topic: str, sequences: Sequence[int], first_offset: int) -> None:
        """Takes notice: these rows stand durably at `first_offset` and the offsets after it."""
        self._ends.setdefault(topic, deque()).append((sequences[-1], first_offset + len(sequences)))
        self.skip(sequences)

    def skip(self, sequences: Iterable[int]) -> None:
        """Takes notice of rows that need no publication (any more)."""
        self._acked.update(sequence for sequence in sequences if sequence > self.published_sequence)
        published = self.published_sequence
        while published + 1 in self._acked:
            published += 1
            self._acked.discard(published)
        self.published_sequence = published
        for name, waiting in self._ends.items():
            while waiting and waiting[0][0] <= published:
                self.positions[name] = max(self.positions.get(name, 0), waiting.popleft()[1])
