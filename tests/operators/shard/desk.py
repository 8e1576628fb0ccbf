"""One shard engine on a desk: the log, the receivers and the clock are a test's own hands.

Nothing happens that a test does not say: it writes records, lets the engine take them, sends, answers, and
ends the process. The topics are lists, and everything the engine publishes is decoded for it.
"""

from collections import defaultdict
from collections.abc import Sequence

from msgspec.structs import replace

from dataflows.connectors.shard_store.memory import MemoryStore
from operators.shard.actions import BarrierMark, Dispatch, Publish
from operators.shard.engine import ShardEngine
from operators.shard.policy import ShardPolicy
from operators.shard.store_port import Family
from schemas import ids, topics
from schemas.command import Command, CommandKind
from schemas.dead_letter import DeadLetter, DeadLetterKey, Rejected
from schemas.delivery import Delivery, DeliveryState, EventPosition
from schemas.endpoint import DisabledReport, Endpoint, RetryPolicy
from schemas.outcome import ErrorCode, Outcome
from schemas.transition import Transition, TransitionKey
from schemas.wire.records import (
    COMMAND,
    DEAD_LETTER,
    DEAD_LETTER_KEY,
    DELIVERY,
    DISABLED_REPORT,
    REJECTED,
    TRANSITION,
    TRANSITION_KEY,
)

START_MS = 1_800_000_000_000
WINDOW_MS = 200_000
RETRY = RetryPolicy(delays_ms=(1_000, 5_000, 20_000, 60_000), window_ms=WINDOW_MS)
FAR_MS = 10**9


def limits(
    *,
    unsaved_max: int = 1_000,
    live_max: int = 1_000,
    live_bytes_max: int = 64 << 20,
    endpoint_live_max: int = 256,
    refill_max: int = 128,
) -> ShardPolicy:
    """Returns limits that stay out of a test's way unless it names them."""
    return ShardPolicy(
        retry=RETRY,
        unsaved_max=unsaved_max,
        live_max=live_max,
        live_bytes_max=live_bytes_max,
        endpoint_live_max=endpoint_live_max,
        refill_max=refill_max,
    )


def endpoint(name: str = "ep_a", **settings: object) -> Endpoint:
    """Returns an active endpoint; `settings` are fields of `Endpoint`."""
    plain = Endpoint(
        id=name,
        tenant_id="tenant",
        url=f"https://{name}.example/",
        event_types=("*",),
        secrets=(),
        created_at_ms=0,
        updated_at_ms=0,
    )
    return replace(plain, **settings)


class View:
    """The endpoints that the shard knows, and how far it knows them."""

    def __init__(self) -> None:
        self.position = 1
        self.by_id: dict[str, Endpoint] = {}

    def get(self, key: str) -> Endpoint | None:
        """Returns the endpoint, or None."""
        return self.by_id.get(key)


class Desk:
    """One shard engine with everything around it in reach.

    Attributes:
        log: the partition of `deliveries`.
        records: by topic, what was published, in order.
    """

    def __init__(self, *endpoints: Endpoint, policy: ShardPolicy | None = None) -> None:
        self.view = View()
        for known in endpoints or (endpoint(),):
            self.view.by_id[known.id] = known
        self.policy = policy or limits()
        self.store = MemoryStore()
        self.now_ms = START_MS
        self.log: list[tuple[int, int, bytes | None, bytes | None]] = []
        self.records: dict[str, list[tuple[bytes, bytes]]] = defaultdict(list)
        self.epoch = 0
        self.engine: ShardEngine
        self.boot()

    # The log ----------------------------------------------------------------------------------------------

    def write(self, value: bytes | None) -> int:
        """Appends a record; returns its offset."""
        self.log.append((len(self.log), self.now_ms, b"", value))
        return len(self.log) - 1

    def deliver(
        self,
        event: str,
        to: str = "ep_a",
        *,
        data: bytes | None = None,
        recorded_at_ms: int | None = None,
        matched_at: int = 1,
        replay_id: str = "",
    ) -> Delivery:
        """Appends a delivery."""
        body = data if data is not None else event.encode()
        delivery = Delivery(
            ids.delivery_id(event, to, replay_id),
            event,
            to,
            "tenant",
            "order.created",
            replay_id,
            body,
            ids.content_digest("order.created", body),
            self.now_ms if recorded_at_ms is None else recorded_at_ms,
            EventPosition(0, len(self.log)),
            matched_at,
        )
        self.write(DELIVERY.encode(delivery))
        return delivery

    def again(self, delivery: Delivery) -> None:
        """Appends the same delivery once more."""
        self.write(DELIVERY.encode(delivery))

    def command(self, kind: CommandKind, delivery: Delivery, attempt_count: int = 0) -> None:
        """Appends a command."""
        command = Command(kind, delivery.id, delivery.endpoint_id, "someone", attempt_count)
        self.write(COMMAND.encode(command))

    def cancel(self, delivery: Delivery) -> None:
        """Appends and applies a cancel."""
        self.command(CommandKind.CANCEL, delivery)
        self.take()

    def take(self) -> None:
        """Lets the engine take everything it has not taken, in one block."""
        self.engine.accept(self.log[self.engine.state.next_offset :], self.now_ms)

    # Sending ----------------------------------------------------------------------------------------------

    def send(self, slots: int = 1_000) -> list[Dispatch]:
        """Lets the engine take its records, fire its timers and choose what to send."""
        self.take()
        self.fire()
        return self.engine.next_block(self.now_ms, slots)

    def fire(self) -> None:
        """Fires every timer that is due."""
        while self.engine.next_timer_at_ms() <= self.now_ms and self.engine.fire_timers(self.now_ms):
            pass

    def answer(
        self,
        dispatches: Sequence[Dispatch] | Dispatch,
        status: int | None = 200,
        error: ErrorCode = ErrorCode.NONE,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Settles sendings in one block, each with the same answer."""
        several = [dispatches] if isinstance(dispatches, Dispatch) else dispatches
        outcomes = [
            Outcome(
                token=(0, dispatch.live.offset),
                started_at_ms=self.now_ms,
                finished_at_ms=self.now_ms,
                status=status,
                error_code=error,
                headers=headers,
            )
            for dispatch in several
        ]
        self.engine.settle(outcomes, self.now_ms)

    def one(self) -> Dispatch:
        """Sends, and expects exactly one."""
        (dispatch,) = self.send()
        return dispatch

    def later(self, ms: int) -> None:
        """Lets time pass, and fires what is due then."""
        self.now_ms += ms
        self.fire()

    def settle_everything(self, status: int = 200) -> list[Dispatch]:
        """Sends and answers until nothing is left to send; returns what was sent, in order."""
        sent: list[Dispatch] = []
        while block := self.send():
            sent += block
            self.answer(block, status)
        return sent

    # Lives ------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Starts a process on the store, whatever is in it."""
        self.epoch += 1
        engine = self.engine = ShardEngine(0, self.epoch, self.store, self.view, self.policy)
        position = engine.reconcile.position
        letters = self.records[topics.DEAD_LETTERS.name]
        at = position.dead_letters_position if position is not None else 0
        engine.reconcile.note(
            topics.DEAD_LETTERS.name, [DEAD_LETTER_KEY.decode(key).stamp for key, _ in letters[at:]]
        )
        changes = self.records[topics.TRANSITIONS.name]
        at = position.transitions_position if position is not None else 0
        engine.reconcile.redo([TRANSITION_KEY.decode(key) for key, _ in changes[at:]])
        if position is None:
            engine.reconcile.seed(self.reports())
        engine.start(
            position.deliveries_offset if position is not None else 0,
            len(self.log),
            {topics.TRANSITIONS.name: len(changes), topics.DEAD_LETTERS.name: len(letters)},
        )

    def publish(self, rows: Sequence[Publish] | None = None) -> None:
        """Appends rows to their topics and acknowledges them; all new ones, when none are given."""
        for row in self.engine.take_publishes() if rows is None else rows:
            self.records[row.topic].append((row.key, row.value))
            self.engine.acked(row.topic, [row.sequence], len(self.records[row.topic]) - 1)

    def kill(self, store: MemoryStore | None = None) -> None:
        """Ends the process; the next one finds this store (by default: the same, nothing written is lost)."""
        if store is not None:
            self.store = store
        else:
            self.store.crash()
        self.boot()

    def stop(self) -> BarrierMark | None:
        """Stops gracefully and starts again; nothing may be in flight."""
        self.publish()
        mark = self.engine.barrier(is_clean=True)
        self.store.sync()
        self.boot()
        return mark

    # What came of it --------------------------------------------------------------------------------------

    @property
    def published(self) -> dict[str, list[tuple[bytes, bytes]]]:
        """Everything published or about to be: what the outbox holds, behind what the topics hold."""
        result = {topic: list(records) for topic, records in self.records.items()}
        for row in self.engine.unpublished(0, FAR_MS):
            result.setdefault(row.topic, []).append((row.key, row.value))
        return result

    def transitions(self, of: Delivery | None = None) -> list[tuple[TransitionKey, Transition]]:
        """Returns the transitions, of one delivery or of all."""
        decoded = [
            (TRANSITION_KEY.decode(key), TRANSITION.decode(value))
            for key, value in self.published.get(topics.TRANSITIONS.name, [])
        ]
        return [pair for pair in decoded if of is None or pair[0].delivery_id == of.id]

    def states(self, of: Delivery) -> list[DeliveryState]:
        """Returns the states that a delivery went through."""
        return [key.state for key, _ in self.transitions(of)]

    def reason(self, of: Delivery) -> str:
        """Returns the reason of a delivery's last transition."""
        return self.transitions(of)[-1][1].reason

    def dead_letters(self) -> list[tuple[DeadLetterKey, DeadLetter]]:
        """Returns the dead letters."""
        return [
            (DEAD_LETTER_KEY.decode(key), DEAD_LETTER.decode(value))
            for key, value in self.published.get(topics.DEAD_LETTERS.name, [])
        ]

    def rejected(self) -> list[Rejected]:
        """Returns what could not be read."""
        return [REJECTED.decode(value) for _, value in self.published.get(topics.REJECTED.name, [])]

    def reports(self) -> list[DisabledReport]:
        """Returns what was said about endpoints."""
        records = self.published.get(topics.ENDPOINT_STATUS.name, [])
        return [DISABLED_REPORT.decode(value) for _, value in records]

    def rows(self, family: Family) -> list[tuple[bytes, bytes]]:
        """Returns a family's rows."""
        return list(self.store.scan_all(family))
