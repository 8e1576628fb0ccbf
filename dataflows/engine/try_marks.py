"""The marks of tries: a small file per flow that says, after a death, what the flow was working on.

The current try stands in a mapped file: memory that the kernel keeps when the process is killed. Writing it
costs well below a microsecond, there is no call into the system, and the file's blocks are allocated when it
is made, so a full disk cannot hurt. A power cut may lose it, which only means one death uncounted.

A flow is one thread, so there is one current try: a phase and the keys of its records, `partition << 48 |
offset`. The phase is armed last and disarmed first; a kill in between leaves no try, or a mixture of two,
and neither can be the deed of a record. Route's appends are special: entries of several blocks travel
together, so their try is whatever is open, kept as a range per partition.

When the file is opened again, a try that is left is a death, and `operators/suspicion.py` judges it. Its
judgement is kept in a second file, written at starts and when suspects were acquitted, which is rare. Ends
that are nobody's deed do not count: whoever ends the process on purpose calls `excuse`, and errors of the
`Unavailable` and `Refused` kinds excuse themselves.

Outside of this: deaths in other threads (the sender parsing an answer, the log's commit thread, ClickHouse).

Rejected: the shard's store for it (two writes a block instead of two assignments, and it would be lost with
the store that it protects); the commit metadata of the group (a commit per block); catching SIGSEGV (it says
nothing about an out-of-memory kill).
"""

import mmap
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec
import structlog

from dataflows.connectors.log.port import TopicPartition
from operators.suspicion import Parking, Phase, Suspects, Suspicion
from schemas.errors import Refused, StoreUnavailable, Unavailable

KEYS_MAX: Final = 32_768
"""Records of one try; of a larger one the first ones are kept."""
_OFFSET_BITS: Final = 48
_OFFSET_MASK: Final = (1 << _OFFSET_BITS) - 1
_MAGIC: Final = 0x31_5345_4952_54  # "TRIES1"
_AT_MAGIC, _AT_PARTITIONS, _AT_EXCUSED, _AT_PHASE, _AT_COUNT, _AT_BASE, _AT_RANGES = range(7)
_WORD: Final = 8
_WHAT_IS_OPEN: Final = -1

_log = structlog.get_logger(__name__)


def place_of(key: int) -> tuple[int, int]:
    """Returns the partition and the offset that a key names."""
    return key >> _OFFSET_BITS, key & _OFFSET_MASK


def key_of(partition: int, offset: int) -> int:
    """Returns the key of a record."""
    return partition << _OFFSET_BITS | offset


class _Kept(msgspec.Struct):
    """The second file. Positions mean nothing in another log."""

    log_id: str
    suspects: dict[int, Suspects]
    parked: list[tuple[int, int, int]]


class TryMarks:
    """The tries of one flow. Owned by its thread; `excuse` and `judge` may be called from any.

    Args:
        path: of the file; `<path>.suspects` stands beside it. None: marks that nobody finds again.
        topic: that the flow reads, for the alert.
        log_id: of the log whose offsets these are.
        partitions: of the topic.
        group_max: how many suspects of one death are taken together.

    Attributes:
        is_wary: whether anything is suspected or parked: else nobody needs to ask `group`.
        parked_count: records parked since the start.
    """

    def __init__(
        self, path: Path | None, topic: str, log_id: str, partitions: int, group_max: int = 1
    ) -> None:
        self.topic = topic
        self.parked_count = 0
        self._kept_path = None if path is None else path.with_name(f"{path.name}.suspects")
        self._log_id = log_id
        self._group_max = group_max
        self._keys_at = _AT_RANGES + 2 * partitions
        self._map: mmap.mmap | None
        self._map, self._words = _open_words(path, partitions, self._keys_at + KEYS_MAX)
        self._suspicion = self._read_kept()
        if self._words[_AT_PHASE] and not self._words[_AT_EXCUSED]:
            self._count_death()
        self._words[_AT_PHASE] = self._words[_AT_EXCUSED] = 0
        self._words[_AT_RANGES : self._keys_at] = array("q", bytes(2 * partitions * _WORD))
        self._groups: dict[int, int] = {}
        self.is_wary = False
        self._regroup()

    @classmethod
    def open(cls, path: Path, topic: str, log_id: str, partitions: int, *, group_max: int = 1) -> Self:
        """Opens the marks, or makes them; a try that is left from the last process is judged.

        Raises:
            StoreUnavailable: the file cannot be made.
        """
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            return cls(path, topic, log_id, partitions, group_max)
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be opened: {error.strerror or error}") from error

    # The current try --------------------------------------------------------------------------------------

    def begin(self, phase: Phase, keys: Sequence[int], base: int = 0) -> None:
        """Begins a try; it takes the place of one that was begun before.

        Args:
            phase: what is begun.
            keys: of its records, less `base`.
            base: what they have in common: adding it to each would be most of the cost.
        """
        words, at = self._words, self._keys_at
        words[_AT_PHASE] = 0
        count = min(len(keys), KEYS_MAX)
        words[at : at + count] = array("q", keys[:count])
        words[_AT_BASE] = base
        words[_AT_COUNT] = count
        words[_AT_PHASE] = phase if count else 0

    def begin_one(self, phase: Phase, key: int) -> None:
        """Begins a try of one record."""
        words = self._words
        words[self._keys_at] = key
        words[_AT_BASE] = 0
        words[_AT_COUNT] = 1
        words[_AT_PHASE] = phase

    def begin_open(self, phase: Phase) -> None:
        """Begins a try of whatever is open."""
        self._words[_AT_COUNT] = _WHAT_IS_OPEN
        self._words[_AT_PHASE] = phase

    def turn(self, phase: Phase) -> None:
        """Goes on to the next phase with the same records, which have passed the last one."""
        if self.is_wary:
            self._acquit()
        self._words[_AT_PHASE] = phase

    def done(self) -> None:
        """Ends the try: its records passed the phase."""
        if self.is_wary:
            self._acquit()
        self._words[_AT_PHASE] = 0

    def leave(self) -> None:
        """Ends the try without a judgement: whether its records pass shows later (see `passed_below`)."""
        self._words[_AT_PHASE] = 0

    # What is open -----------------------------------------------------------------------------------------

    def opened(self, of: TopicPartition, first: int, end: int) -> None:
        """Says that the records first <= offset < end are open, besides those that were."""
        at = _AT_RANGES + 2 * of.partition
        if self._words[at] == self._words[at + 1]:
            self._words[at] = self._words[at + 1] = first
        self._words[at + 1] = end

    def passed_below(self, of: TopicPartition, offset: int) -> None:
        """Says that everything below is done: it is not open any more, and acquitted in every phase."""
        self._words[_AT_RANGES + 2 * of.partition] = offset
        suspicion = self._suspicion
        if suspicion.suspects:
            low, high = key_of(of.partition, 0), key_of(of.partition, offset)
            below = [key for key in self._groups if low <= key < high]
            acquittals = [suspicion.passed(phase, below) for phase in tuple(suspicion.suspects)]
            if any(acquittals):
                self._keep()
            self._regroup()

    # Who is suspected -------------------------------------------------------------------------------------

    @property
    def has_suspects(self) -> bool:
        """Whether anything is suspected that has not passed yet."""
        return bool(self._suspicion.suspects)

    @property
    def parked(self) -> Mapping[int, Parking]:
        """The parked records by key."""
        return self._suspicion.parked

    def group(self, key: int) -> int:
        """Returns how many records of its kind may be taken together; 0 for one that nobody suspects."""
        return self._groups.get(key, 0)

    def note_parked(self, key: int) -> None:
        """Alarms: a record was parked."""
        parking = self._suspicion.parked[key]
        partition, offset = place_of(key)
        self.parked_count += 1
        _log.error(
            "record_parked",
            topic=self.topic,
            partition=partition,
            offset=offset,
            phase=parking.phase.name.lower(),
            deaths=parking.deaths,
        )

    # Ends -------------------------------------------------------------------------------------------------

    def excuse(self) -> None:
        """Says that the process is ended on purpose: what is under way is not to blame. Any thread."""
        if self._map is not None:
            self._words[_AT_EXCUSED] = 1

    def judge(self, error: BaseException) -> None:
        """Says what the flow died of: trouble outside of us is no record's deed."""
        if isinstance(error, Unavailable | Refused):
            self.excuse()

    def close(self) -> None:
        """Ends without a try. A second call does nothing."""
        if self._map is not None:
            self._words[_AT_PHASE] = 0
            closing, self._map = self._map, None
            self._words.release()
            closing.close()

    # ------------------------------------------------------------------------------------------------------

    def _acquit(self) -> None:
        phase, count = self._words[_AT_PHASE], self._words[_AT_COUNT]
        if phase and phase in self._suspicion.suspects:
            if self._suspicion.passed(Phase(phase), self._tried_keys(count)):
                self._keep()
            self._regroup()

    def _regroup(self) -> None:
        self._groups = self._suspicion.groups(self._group_max)
        self.is_wary = bool(self._groups)

    def _count_death(self) -> None:
        words, count = self._words, self._words[_AT_COUNT]
        try:
            phase = Phase(words[_AT_PHASE])
        except ValueError:
            return
        keys = set(self._open_keys() if count == _WHAT_IS_OPEN else self._tried_keys(count))
        if not keys:
            return
        parked = self._suspicion.died(phase, keys)
        known = self._suspicion.suspects.get(phase)
        _log.warning(
            "died_in_a_try",
            topic=self.topic,
            phase=phase.name.lower(),
            records=len(keys),
            first=_position(min(keys)),
            last=_position(max(keys)),
            deaths=self._suspicion.parked[parked].deaths if parked is not None else known and known.deaths,
        )
        self._keep()

    def _tried_keys(self, count: int) -> list[int]:
        base = self._words[_AT_BASE]
        tried = self._words[self._keys_at : self._keys_at + min(max(count, 0), KEYS_MAX)]
        return [base + key for key in tried]

    def _open_keys(self) -> list[int]:
        keys: list[int] = []
        ranges = self._words[_AT_RANGES : self._keys_at].tolist()
        for partition, (first, end) in enumerate(zip(ranges[::2], ranges[1::2], strict=True)):
            keys += [key_of(partition, offset) for offset in range(first, min(end, first + KEYS_MAX))]
        return keys

    def _read_kept(self) -> Suspicion:
        if self._kept_path is None:
            return Suspicion({}, {})
        try:
            kept = msgspec.json.decode(self._kept_path.read_bytes(), type=_Kept)
            if kept.log_id == self._log_id:
                return Suspicion(
                    {Phase(phase): suspects for phase, suspects in kept.suspects.items()},
                    {key: Parking(Phase(phase), deaths) for key, phase, deaths in kept.parked},
                )
        except FileNotFoundError:
            return Suspicion({}, {})
        except (msgspec.MsgspecError, ValueError) as error:
            _log.warning("suspects_forgotten", path=str(self._kept_path), error=str(error))
        self._words[_AT_PHASE] = 0  # of another log, or of nobody knows what
        return Suspicion({}, {})

    def _keep(self) -> None:
        """Writes the judgement; on a disk that is full it counts for this process only."""
        if self._kept_path is None:
            return
        suspicion = self._suspicion
        kept = _Kept(
            self._log_id,
            {int(phase): suspects for phase, suspects in suspicion.suspects.items()},
            [(key, int(parking.phase), parking.deaths) for key, parking in suspicion.parked.items()],
        )
        unfinished = self._kept_path.with_suffix(".unfinished")
        try:
            unfinished.write_bytes(msgspec.json.encode(kept))
            unfinished.replace(self._kept_path)
        except OSError as error:
            _log.warning("suspects_not_kept", path=str(self._kept_path), error=str(error))


def _position(key: int) -> str:
    return "{}.{}".format(*place_of(key))


def _open_words(path: Path | None, partitions: int, count: int) -> tuple[mmap.mmap, memoryview]:
    """Returns the mapped file as 64-bit words, made anew when it is of another form."""
    size = count * _WORD
    if path is None:
        mapped = mmap.mmap(-1, size)
        return mapped, memoryview(mapped).cast("q")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, 0)
        # All of its blocks: a page of a mapped file that finds no room kills the process.
        os.posix_fallocate(descriptor, 0, size)
        mapped = mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
    words = memoryview(mapped).cast("q")
    if (words[_AT_MAGIC], words[_AT_PARTITIONS]) != (_MAGIC, partitions):
        words[_AT_PHASE] = 0
        words[_AT_MAGIC], words[_AT_PARTITIONS] = _MAGIC, partitions
    return mapped, words
