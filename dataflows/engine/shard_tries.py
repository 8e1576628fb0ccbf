"""The tries of one shard: what the engine says in offsets, written into the marks of its process."""

from collections.abc import Sequence

from dataflows.engine.try_marks import TryMarks, key_of, place_of
from operators.suspicion import Phase


class ShardTries:
    """The tries of one shard of `deliver`: implements `operators.shard.tries_port.Tries`."""

    def __init__(self, marks: TryMarks, shard: int) -> None:
        self._marks = marks
        self._base = key_of(shard, 0)
        places = {place_of(key): parking for key, parking in marks.parked.items()}
        self.parked = {offset: parking for (of, offset), parking in places.items() if of == shard}

    @property
    def is_wary(self) -> bool:
        """Whether anything is suspected or parked."""
        return self._marks.is_wary

    def group(self, offset: int) -> int:
        """Returns how many records of its kind may be taken together; 0 for one that nobody suspects."""
        return self._marks.group(self._base + offset)

    def begin(self, phase: Phase, offsets: Sequence[int]) -> None:
        """Begins a try."""
        self._marks.begin(phase, offsets, self._base)

    def turn(self, phase: Phase) -> None:
        """Goes on to the next phase with the same records."""
        self._marks.turn(phase)

    def done(self) -> None:
        """Ends the try."""
        self._marks.done()

    def note_parked(self, offset: int) -> None:
        """Alarms."""
        self._marks.note_parked(self._base + offset)
