"""What must come of a shard whose directory was damaged.

`Afterlife` starts the shard over the damaged directory, as the process starts it, and runs it to the end,
through as many deaths by damage as it takes. A sender that answers at once is the witness.
"""

from collections import defaultdict
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

from dataflows.connectors.shard_store.rocks import RocksStore
from dataflows.connectors.shard_store.setting_aside import Opened, open_or_set_aside
from dataflows.engine.shard_boot import start_shard
from operators.shard.store_port import Family
from schemas.delivery import DeliveryState
from schemas.endpoint import EndpointStatus
from schemas.errors import DamagedStore
from schemas.transition import RowStamp, TransitionKey
from schemas.wire import store_keys
from schemas.wire.records import DEAD_LETTER_KEY, TRANSITION_KEY
from tests.integration.damage_world import (
    AFTER_MEMTABLE_BYTES,
    BARRIER_TICKS,
    DEAD_LETTERS,
    DELIVERIES,
    JUMP_MS,
    POLICY,
    SHARD,
    SHARD_COUNT,
    TICK_MS,
    TRANSITIONS,
    History,
    Life,
    Sender,
    make_view,
    store_memory,
)
from tests.integration.recorded_store import rows_of

LIVES_MAX = 8


@dataclass
class Afterlife:
    """What becomes of a history whose directory was damaged.

    Attributes:
        name: of the damage, for messages.
        set_aside_at_start: whether the first opening refused the directory.
        met_later: how often damage was met by a running engine.
        sent_again: requests that had been sent before.
    """

    history: History
    directory: Path
    name: str
    set_aside_at_start: bool = False
    met_later: int = 0
    sent_again: set[tuple[str, int]] = field(default_factory=set)
    batches_found: int = 0

    def __post_init__(self) -> None:
        self.log = copy(self.history.log)
        self.log._records = {of: list(records) for of, records in self.history.log._records.items()}
        self.log._groups = dict(self.history.log._groups)
        self.view = make_view()
        self.now_ms = self.history.log.now_ms
        self.sent_before = set(self.history.sent)

    def run(self) -> None:
        """Starts it, and starts it again after each death by damage, until everything has ended."""
        for number in range(LIVES_MAX):
            opened = self._open()
            if number == 0:
                self.set_aside_at_start = opened.aside is not None
                if opened.aside is None:
                    self._check_prefix(opened.store)
            else:
                assert opened.aside is not None, f"{self.name}: damage was met, and is forgotten"
            try:
                self._live(opened)
            except DamagedStore:
                self.met_later += 1
            else:
                opened.store.close()
                self._check_ends()
                return
            finally:
                with suppress(DamagedStore):
                    opened.store.close()
        raise AssertionError(f"{self.name}: still damaged after {LIVES_MAX} starts")

    def _open(self) -> Opened:
        return open_or_set_aside(
            self.directory,
            shard=SHARD,
            shard_count=SHARD_COUNT,
            memory=store_memory(AFTER_MEMTABLE_BYTES),
            now_ms=self.now_ms,
        )

    def _check_prefix(self, store: RocksStore) -> None:
        """What opens is everything that was synced, and a whole prefix of what was written."""
        self.batches_found = store._batches
        synced = self.history.synced_batches
        assert store._batches >= synced, f"{self.name}: {synced} batches were synced, {store._batches} opened"
        found = rows_of(store)
        if found is None:
            return  # a damaged block: whoever reads it gets an error, never a shorter answer
        wanted = self.history.prefix(store._batches)
        for table, rows in found.items():
            assert rows == wanted.get(table, {}), f"{self.name}: opened with a hole in {table}"
        lost = [table for table in wanted if table not in found and wanted[table]]
        assert not lost, f"{self.name}: opened without {lost}"

    def _live(self, opened: Opened) -> None:
        known = self._transitions()
        sender = Sender()
        sender.is_first_life = False
        try:
            engine = start_shard(
                self.log,
                SHARD,
                opened.store,
                self.view,
                POLICY,
                lambda: self.now_ms,
                rebuild=opened.aside is not None,
            )
            opened.settle()
            life = Life(engine, self.log, sender, self.now_ms)
            for row in engine.unpublished(0, 1 << 30):
                engine.state.publishes.append(row)
            self._run_to_the_end(life)
        finally:
            self._check_requests(sender.sent, known)

    def _run_to_the_end(self, life: Life) -> None:
        engine = life.engine
        is_enabled = False
        for number in range(10_000):
            self.log.now_ms = life.now_ms = self.now_ms = self.now_ms + TICK_MS
            life.step()
            if number % BARRIER_TICKS == 0:
                engine.review_held(self.now_ms)
                engine.barrier()
            if engine.has_work or engine.state.next_offset < self.log.end(DELIVERIES):
                continue
            if (key := engine.state.store.seek(Family.DUE, b"")) is not None:
                self.now_ms = max(self.now_ms, store_keys.parse_due_key(key)[0] + JUMP_MS)
            elif not is_enabled:
                is_enabled = True
                to = {self.history.endpoint_of(delivery_id) for delivery_id, _ in life.sender.sent}
                assert "ep_held" not in to, f"{self.name}: sent to a disabled endpoint"
                self.view = make_view(EndpointStatus.ACTIVE)
                engine.state.endpoints = self.view
                engine.wake("ep_held")
            elif engine.state.store.seek(Family.PENDING, b"") is None:
                engine.barrier(is_clean=True)
                engine.state.store.sync()
                return
        raise AssertionError(f"{self.name}: deliveries still wait")

    def _transitions(self) -> dict[str, TransitionKey]:
        """The last transition of each delivery that has one."""
        keys = (TRANSITION_KEY.decode(record.key or b"") for record in self.log.records(TRANSITIONS))
        return {key.delivery_id: key for key in keys}

    def _check_requests(self, sent: list[tuple[str, int]], known: dict[str, TransitionKey]) -> None:
        """Nothing is sent twice in a life, and nothing again whose end is in `transitions`."""
        assert len(set(sent)) == len(sent), f"{self.name}: sent twice by one process"
        letters = {DEAD_LETTER_KEY.decode(r.key or b"").stamp for r in self.log.records(DEAD_LETTERS)}
        for delivery_id, number in sent:
            last = known.get(delivery_id)
            if last is None:
                continue
            if last.state is DeliveryState.DEAD_LETTERED:
                following = RowStamp(last.stamp.epoch, last.stamp.sequence + 1)
                assert following not in letters, f"{self.name}: {last} sent again ({number})"
                continue  # its dead letter was lost with the store: it ends once more
            assert not last.state.is_final, f"{self.name}: {last} sent again ({number})"
            assert number > last.attempt_count, f"{self.name}: {last} sent again ({number})"
        self.sent_again |= self.sent_before.intersection(sent)
        self.sent_before.update(sent)

    def _check_ends(self) -> None:
        """Everything ended as it had to, once."""
        ends: dict[str, set[DeliveryState]] = defaultdict(set)
        for record in self.log.records(TRANSITIONS):
            key = TRANSITION_KEY.decode(record.key or b"")
            if key.state.is_final:
                ends[key.delivery_id].add(key.state)
        wanted = {delivery_id: {state} for delivery_id, state in self.history.expected.items()}
        lost = wanted.keys() - ends.keys()
        assert not lost, f"{self.name}: lost {len(lost)}, such as {min(lost)}"
        assert ends == wanted, f"{self.name}: ended otherwise"
        letters = {DEAD_LETTER_KEY.decode(r.key or b"").name for r in self.log.records(DEAD_LETTERS)}
        dead = {name for name, state in self.history.expected.items() if state is DeliveryState.DEAD_LETTERED}
        assert letters == dead, f"{self.name}: dead letters"
