"""Which records are suspected of killing the process, and when one of them is parked.

Before a piece of work is begun, whoever does it writes down which records it holds (the try), and crosses it
out afterwards. A process that finds a try left over died of it, or died while it was under way. This is the
judgement on such deaths; the file that survives them is `dataflows/engine/try_marks.py`.

    first death      the records of the try are suspects: they are taken in smaller groups
    second death     with a common record: the last try's records are suspects, now taken one by one
    third death      the try was one single record: that record is parked

A suspect that passes its phase is none any more, so only deaths in a row count, however long ago the others
were. The next death may be in another phase, because what is written where depends on the load. Being parked
is remembered, because after a crash the same record may be read again.

Why an innocent record is not parked when processes are killed at random: it would have to be in the try of
the first death, in that of a second one which falls before it passed (the first things that a new process
does, milliseconds), and be the only one in the try when a third kill hits, again before it passed (tens of
microseconds). At a kill a second, at a moment evenly drawn, that is below 1 in 100,000 triples, and a process
that lives a second between its kills is never suspected twice.

Why a deadly record is always parked: work that died is begun again, so it is in the last try of every death
it causes; the second try overlaps the first in it, the third is it alone.

Rejected: ranges of offsets (what is read back from a store lies scattered, and a range would accuse what lies
between); acquitting whatever the phase (a record that passes `accept` and dies in `send` would be acquitted
each time); a time after which suspicion ends (a record that dies once in ten minutes would die for ever).
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from enum import IntEnum

from msgspec import Struct

PARK_DEATHS = 3
PARKED_MAX = 1_000
"""Records whose parking is remembered; beyond them the oldest is forgotten, and would have to die again."""


class Phase(IntEnum):
    """What is being done with the records of a try. The numbers stand in files."""

    DECODE = 1
    ACCEPT = 2
    READ = 3
    SEND = 4
    SETTLE = 5
    SAVE = 6
    ROUTE = 7
    APPEND = 8


class Parking(Struct, frozen=True):
    """Why a record is parked.

    Attributes:
        deaths: above `PARK_DEATHS`, the parking killed too, and less of the record must be kept.
    """

    phase: Phase
    deaths: int

    @property
    def is_deadly_to_read(self) -> bool:
        """Whether already decoding it killed."""
        return self.phase in {Phase.DECODE, Phase.READ}

    @property
    def is_deadly_to_keep(self) -> bool:
        """Whether writing it down as parked killed as well."""
        return self.deaths > PARK_DEATHS

    @property
    def detail(self) -> str:
        """A sentence for people."""
        return (
            f"the process died {self.deaths} times while it was in {self.phase.name.lower()} with this record"
        )


class Suspects(Struct):
    """The records of a phase's last deadly try that have not passed it since."""

    deaths: int
    keys: set[int]


class Suspicion(Struct):
    """Everything that is suspected and parked. Keys name records; what they mean is the owner's business."""

    suspects: dict[Phase, Suspects]
    parked: dict[int, Parking]

    def died(self, phase: Phase, keys: AbstractSet[int]) -> int | None:
        """Takes notice of a death in a try; returns the key of the record that is parked now, if one is."""
        key = next(iter(keys)) if len(keys) == 1 else None
        if key in self.parked:
            before = self.parked[key]
            self.parked[key] = Parking(before.phase, before.deaths + 1)
            return key
        explained = [other for other, known in self.suspects.items() if known.keys & keys]
        # One culprit explains them all, and it is in the last try: who was only in an earlier one is free.
        deaths = 1 + max([self.suspects.pop(other).deaths for other in explained], default=0)
        if key is None or deaths < PARK_DEATHS:
            self.suspects[phase] = Suspects(deaths, set(keys))
            return None
        self.parked[key] = Parking(phase, deaths)
        while len(self.parked) > PARKED_MAX:
            del self.parked[next(iter(self.parked))]
        return key

    def passed(self, phase: Phase, keys: Iterable[int]) -> bool:
        """Acquits the records that passed a phase; returns whether that leaves no suspect in it."""
        known = self.suspects.get(phase)
        if known is None:
            return False
        known.keys.difference_update(keys)
        if not known.keys:
            del self.suspects[phase]
        return not known.keys

    def groups(self, group_max: int) -> dict[int, int]:
        """Returns of every suspected or parked record how many of its kind may be taken together.

        Args:
            group_max: after the first death.
        """
        sizes = dict.fromkeys(self.parked, 1)
        for known in self.suspects.values():
            size = group_max if known.deaths == 1 else 1
            for key in known.keys:
                sizes[key] = min(size, sizes.get(key, size))
        return sizes


def run_length(groups: Sequence[int]) -> int:
    """Returns how many records of a block are taken together, from its first one on.

    Args:
        groups: of each record, in order, how many of its kind may be taken together; 0 for an innocent one.
            Not empty.
    """
    size = groups[0]
    if not size:
        return next((index for index, group in enumerate(groups) if group), len(groups))
    count = 1
    while count < min(size, len(groups)) and groups[count] >= size:
        count += 1
    return count
