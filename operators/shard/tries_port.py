"""The tries port of a shard: says what is being worked on, so that a death can be traced to its record.

The engine brackets every piece of work whose content is somebody else's. It is a port, because what survives
a death is a file, and because most of the engine's tests need none.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

from operators.suspicion import Parking, Phase


class Tries(Protocol):
    """The tries of one shard. Records are named by their offsets in `deliveries`."""

    @property
    def is_wary(self) -> bool:
        """Whether anything is suspected or parked in this process: else nobody needs to ask."""

    @property
    def parked(self) -> Mapping[int, Parking]:
        """The parked records by offset."""

    def group(self, offset: int) -> int:
        """Returns how many records of its kind may be taken together; 0 for one that nobody suspects."""

    def begin(self, phase: Phase, offsets: Sequence[int]) -> None:
        """Begins a try; it takes the place of one that was begun before."""

    def turn(self, phase: Phase) -> None:
        """Goes on to the next phase with the same records."""

    def done(self) -> None:
        """Ends the try: its records passed the phase. A death by an exception must not come here."""

    def note_parked(self, offset: int) -> None:
        """Says that a record was parked, for the alert."""


class _NoTries:
    """For engines that nobody starts again: tests, benchmarks."""

    is_wary: Final = False
    parked: Final[Mapping[int, Parking]] = MappingProxyType({})

    def group(self, _offset: int) -> int:
        return 0

    def begin(self, _phase: Phase, _offsets: Sequence[int]) -> None:
        pass

    def turn(self, _phase: Phase) -> None:
        pass

    def done(self) -> None:
        pass

    def note_parked(self, _offset: int) -> None:
        pass


NO_TRIES: Final[Tries] = _NoTries()
