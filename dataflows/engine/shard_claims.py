"""The claims of a process on its shards: made at its start, looked at while it runs, released by a command.

A claim is a record of `shards`; its own offset is the owner's epoch, which stands in everything the owner
writes. The claimant reads on to its own claim: when somebody else's came first, it has lost and ends. While
it runs it looks for a higher claim about once a barrier, and ends at once when there is one.

The same store takes its shards over at once, because its directory is locked: whoever had it is dead. Another
store needs a release, a person's `--rebuild`, or the knowledge that the owner's directory was found damaged
and set aside. After such a takeover the old owner may still be alive somewhere, until it reads our claim; the
new one waits for that (`Terms.wait_ms`) before it even reads what the old one published.

A stop releases nothing: the same directory comes back. `release` is for a person who moves a shard for good.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

from dataflows.connectors.log.port import Entry, Log, TopicPartition
from operators.shard.ownership import Owners, fold, foreign_owner, next_claim
from operators.shard.store_port import Family, ShardStore
from schemas import topics
from schemas.errors import FormatMismatch, LogUnavailable, Refused
from schemas.shard_claim import ShardClaim
from schemas.wire import store_keys
from schemas.wire.records import SHARD_CLAIM
from schemas.wire.store_rows import POSITION_ROW, STAMP_ROW

BLOCK_RECORDS = 1_000
CHECK_INTERVAL_S = 1.0
"""How often an owner looks for a higher claim: as often as it writes a barrier."""
_OF = TopicPartition(topics.SHARDS.name, 0)


class ClaimLost(Refused):
    """Somebody else has claimed a shard of ours; going on would send its deliveries twice."""


class Terms(NamedTuple):
    """On what terms a process takes its shards.

    Attributes:
        rebuild: a person has said that stores which own our shards are lost.
        replaced: shards whose own store was found damaged and set aside: its empty successor needs no
            person's word.
        wait_ms: after taking a shard from another store: how long the old owner may go on before it must
            have read our claim. 0 when it is known to be dead.
        directories: by shard, for sentences to a person.
    """

    rebuild: bool = False
    replaced: frozenset[int] = frozenset()
    wait_ms: int = 0
    directories: Mapping[int, str] = {}


def takeover_wait_ms(attempt_timeout_ms_max: int, barrier_ms: int) -> int:
    """Returns how long an owner that lives may still send and publish after another store's claim.

    It reads the claim within a barrier, its worker hears of it within another, and what is in flight then
    ends within its timeout.
    """
    return attempt_timeout_ms_max + 2 * barrier_ms


class ShardClaims:
    """The claims that this process has made. Used by one thread at a time.

    Attributes:
        epochs: by shard: the offset of our claim.
        taken: shards that another store owned before.
    """

    def __init__(self, log: Log, stores: Mapping[int, str]) -> None:
        self.epochs: dict[int, int] = {}
        self.taken: frozenset[int] = frozenset()
        self._log = log
        self._stores = dict(stores)
        self._owners: Owners = {}
        self._reader = log.reader({_OF: log.start(_OF)})
        self._next_check_s = 0.0

    @classmethod
    def make(cls, log: Log, stores: Mapping[int, ShardStore], now_ms: int, terms: Terms) -> Self:
        """Claims all of a process's shards, or none of them.

        Args:
            log: its topic `shards` is read once.
            stores: by shard; locked.
            now_ms: milliseconds UTC.
            terms: see `Terms`.

        Raises:
            Refused: a shard belongs to another store; the message names its directory.
            ClaimLost: somebody else claimed one at the same moment, and was first.
            FormatMismatch: a store was made by another log, or by more of this one than there is.
        """
        claims = cls(log, {shard: store.store_id for shard, store in stores.items()})
        claims._read_on()
        for shard, store in stores.items():
            _refuse_other_log(log, shard, store, terms)
        claims._refuse_owned(stores, terms)
        claims._append(now_ms)
        for store in stores.values():
            _put_log_row(store, log.cluster_id)
        return claims

    def check(self) -> None:
        """Looks whether every claim still stands; reads the topic's end at most once a second.

        Raises:
            ClaimLost: one does not.
        """
        now_s = time.monotonic()
        if now_s < self._next_check_s:
            return
        self._next_check_s = now_s + CHECK_INTERVAL_S
        try:
            self._read_on()
        except LogUnavailable:
            return  # nobody can claim anything meanwhile, either
        self._refuse_lost()

    def release(self, shards: Iterable[int], now_ms: int) -> None:
        """Gives shards away: from here on any store may claim them. The process must have stopped them.

        Raises:
            ClaimLost: one is not ours any more.
        """
        self._read_on()
        self._refuse_lost()
        given = list(shards)
        self._write([next_claim(self._owners, s, self._stores[s], now_ms, is_released=True) for s in given])
        for shard in given:
            del self.epochs[shard]

    def close(self) -> None:
        """Frees the reader."""
        self._reader.close()

    def _append(self, now_ms: int) -> None:
        shards = sorted(self._stores)
        self.taken = frozenset(
            shard for shard in shards if foreign_owner(self._owners, shard, self._stores[shard]) is not None
        )
        first = self._write([next_claim(self._owners, s, self._stores[s], now_ms) for s in shards])
        self.epochs = {shard: first + place for place, shard in enumerate(shards)}
        self._read_on()
        self._refuse_lost()

    def _write(self, claims: Sequence[ShardClaim]) -> int:
        entries = [Entry(_key(claim), SHARD_CLAIM.encode(claim)) for claim in claims]
        return self._log.append_and_wait(_OF, entries).first_offset if entries else 0

    def _read_on(self) -> None:
        end = self._log.end(_OF)
        while self._reader.position(_OF) < end:
            for record in self._reader.poll(_OF, BLOCK_RECORDS):
                if record.value is not None:
                    fold(self._owners, record.offset, SHARD_CLAIM.decode(record.value))

    def _refuse_lost(self) -> None:
        for shard, epoch in self.epochs.items():
            owner = self._owners[shard]
            if owner.offset != epoch:
                raise ClaimLost(
                    f"shard {shard} was claimed by store {owner.claim.store_id} (epoch {owner.offset}) after "
                    f"store {self._stores[shard]} of this process (epoch {epoch}): another process delivers "
                    "it now, so this one ends. One of the two must not be started again"
                )

    def _refuse_owned(self, stores: Mapping[int, ShardStore], terms: Terms) -> None:
        owned = []
        for shard in sorted(stores):
            owner = foreign_owner(self._owners, shard, self._stores[shard])
            if owner is not None and not terms.rebuild and shard not in terms.replaced:
                owned.append((shard, owner.claim.store_id))
        if not owned:
            return
        shard, owner_id = owned[0]
        where = terms.directories.get(shard, f"of shard {shard}")
        is_empty = stores[shard].get(Family.META, store_keys.META_POSITION) is None
        found = "is empty" if is_empty else f"holds store {self._stores[shard]}"
        others = f" (the same goes for {len(owned) - 1} more shards)" if len(owned) > 1 else ""
        raise Refused(
            f"the directory {where} {found}, but shard {shard} has a history, and it belongs to store "
            f"{owner_id}{others}. Put the directory that owns the shard back; if it is lost, start once with "
            "--rebuild: then the shard's state is made again from the log"
        )


def _key(claim: ShardClaim) -> bytes:
    return f"{claim.shard}/{claim.store_id}".encode()


def _refuse_other_log(log: Log, shard: int, store: ShardStore, terms: Terms) -> None:
    """Refuses a store that this log did not make: its positions would mean nothing here.

    Raises:
        FormatMismatch: it names another log, or an epoch that this log has not reached.
    """
    where = terms.directories.get(shard, f"of shard {shard}")
    made_by = store.get(Family.META, store_keys.META_LOG)
    if made_by is not None and made_by != log.cluster_id.encode():
        raise FormatMismatch(
            f"the directory {where} belongs to the log {made_by.decode()}, but this is the log "
            f"{log.cluster_id}: one of the two was replaced. Put back the log, or the directory, that "
            "belongs here"
        )
    end = log.end(_OF)
    epoch = _epoch_of(store)
    if epoch >= end:
        raise FormatMismatch(
            f"the directory {where} was written under epoch {epoch}, but the log's claims end at {end}: the "
            "log is older than the shards' state, so it lacks what was accepted since. Restore the log that "
            "belongs to it"
        )


def _epoch_of(store: ShardStore) -> int:
    """Returns the highest epoch that a store was written under; -1 when it is new."""
    position = store.get(Family.META, store_keys.META_POSITION)
    stamp = store.get(Family.META, store_keys.META_STAMP)
    return max(
        -1 if position is None else POSITION_ROW.decode(position).owner_epoch,
        -1 if stamp is None else STAMP_ROW.decode(stamp).epoch,
    )


def _put_log_row(store: ShardStore, cluster_id: str) -> None:
    if store.get(Family.META, store_keys.META_LOG) is None:
        batch = store.batch()
        batch.put(Family.META, store_keys.META_LOG, cluster_id.encode())
        store.write(batch)
