"""What follows a barrier: the WALs are synced in the background, then the group's offset is mirrored.

The truth about a shard's position stands in its store. The group's committed offset is its mirror, for
Kafka's own tools, and the way a person moves it: a committed value without our stamp is a person's, and is
honoured.

The same thread looks whether our claims still stand, because asking the log for an end may take a while and
the worker must not wait.
"""

import threading
from collections.abc import Mapping

import msgspec
import structlog

from dataflows.connectors.log.port import GroupOffset, Log, TopicPartition
from dataflows.engine.shard_claims import ClaimLost, ShardClaims
from operators.shard.actions import BarrierMark
from operators.shard.store_port import ShardStore
from schemas import topics
from schemas.errors import LogUnavailable, Refused

GROUP = "deliver"
STAMP_VERSION = 1
CLOSE_TIMEOUT_S = 5.0

_log = structlog.get_logger(__name__)


class Stamp(msgspec.Struct, frozen=True):
    """The committer's words on a mirrored offset: whose it is, and which barrier it stands for."""

    v: int
    store: str
    barrier: int


class GroupMoved(Refused):
    """A person moved the group while we ran; a restart honours it."""


def read_stamp(committed: GroupOffset | None) -> Stamp | None:
    """Returns our stamp on a committed offset, or None when a person (or nobody) wrote it."""
    if committed is None:
        return None
    try:
        stamp = msgspec.json.decode(committed.metadata, type=Stamp)
    except msgspec.MsgspecError:
        return None
    return stamp if stamp.v == STAMP_VERSION else None


class BackgroundSync:
    """Syncs the shards' stores every few milliseconds and mirrors what has been synced.

    Args:
        log: where the group's offsets are mirrored.
        stores: by shard.
        interval_ms: the most traffic that a power cut can repeat.
        claims: on these shards; looked at about once a second.
    """

    def __init__(
        self, log: Log, stores: Mapping[int, ShardStore], interval_ms: int, claims: ShardClaims
    ) -> None:
        self._log = log
        self._claims = claims
        self._stores = stores
        self._interval_s = interval_ms / 1_000
        self._lock = threading.Lock()
        self._marks: dict[int, BarrierMark] = {}
        self._mirrored: dict[int, GroupOffset] = {}
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="shard-sync", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def note(self, shard: int, mark: BarrierMark) -> None:
        """Takes a barrier: it is mirrored after the next sync."""
        with self._lock:
            self._marks[shard] = mark

    def check(self) -> None:
        """Raises what the thread met.

        Raises:
            ClaimLost: another process has claimed a shard of ours.
            GroupMoved: a person moved the group's offset.
            StoreUnavailable: a store cannot be synced.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Syncs and mirrors a last time."""
        self._closing.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        self.check()

    def _run(self) -> None:
        try:
            while not self._closing.wait(self._interval_s):
                self._sync_once()
            self._sync_once()
            self._claims.close()
        except BaseException as error:  # noqa: BLE001 - surfaces through `check` on the worker
            self._error = error

    def _sync_once(self) -> None:
        with self._lock:
            marks, self._marks = self._marks, {}
        for store in self._stores.values():
            store.sync()
        self._claims.check()
        if marks:
            self._mirror(marks)

    def _mirror(self, marks: Mapping[int, BarrierMark]) -> None:
        offsets: dict[TopicPartition, GroupOffset] = {}
        for shard, mark in marks.items():
            of = TopicPartition(topics.DELIVERIES.name, shard)
            self._check_not_moved(shard, of)
            metadata = msgspec.json.encode(Stamp(STAMP_VERSION, self._stores[shard].store_id, mark.barrier))
            offsets[of] = GroupOffset(mark.deliveries_offset, metadata.decode())
        try:
            self._log.commit(GROUP, offsets)
        except LogUnavailable as error:
            _log.warning("mirror_failed", group=GROUP, error=str(error))
            return
        for of, offset in offsets.items():
            self._mirrored[of.partition] = offset

    def _check_not_moved(self, shard: int, of: TopicPartition) -> None:
        last = self._mirrored.get(shard)
        if last is None:
            return
        committed = self._log.committed(GROUP, of)
        if committed is None or committed == last:
            return
        stamp = read_stamp(committed)
        if stamp is not None:
            if stamp.store == self._stores[shard].store_id:
                return
            raise ClaimLost(
                f"store {stamp.store} of another process writes barriers of shard {shard}, which belongs to "
                f"store {self._stores[shard].store_id} of this one; this one ends"
            )
        message = (
            f"group {GROUP} was moved to offset {committed.offset} of {of.topic}[{shard}] while this "
            "process ran; it stops now and honours the new offset at its next start"
        )
        raise GroupMoved(message)
