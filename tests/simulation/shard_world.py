"""A world in virtual time around one shard engine: a log, receivers, crashes, power cuts, lost stores.

Everything is drawn from one seed, so a failure repeats by its number. The world plays what the process does
around the engine (log, acknowledgements, slots, barriers, syncs) and keeps the receivers' own record, against
which the promises are checked at the end.
"""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

from dataflows.connectors.shard_store.memory import MemoryStore
from operators.schedule import delay_ms
from operators.shard.actions import Dispatch, Publish
from operators.shard.engine import ShardEngine
from operators.shard.policy import ShardPolicy
from schemas import ids, topics
from schemas.command import Command, CommandKind
from schemas.dead_letter import DeadLetter
from schemas.delivery import Delivery, DeliveryState, EventPosition
from schemas.endpoint import Endpoint, RetryPolicy
from schemas.outcome import ErrorCode, Outcome
from schemas.transition import RowStamp, Transition, TransitionKey
from schemas.wire.records import (
    COMMAND,
    DEAD_LETTER,
    DEAD_LETTER_KEY,
    DELIVERY,
    TRANSITION,
    TRANSITION_KEY,
    decode_work,
)

START_MS = 1_800_000_000_000
RETRY = RetryPolicy(delays_ms=(1_000, 5_000, 20_000, 60_000), window_ms=200_000)
TICK_MS = 20


class View:
    """The endpoints that the shard knows."""

    def __init__(self) -> None:
        self.position = 1
        self.by_id: dict[str, Endpoint] = {}

    def get(self, key: str) -> Endpoint | None:
        return self.by_id.get(key)


@dataclass
class Sent:
    """One request as its receiver saw it."""

    at_ms: int
    number: int
    life: int
    status: int | None


@dataclass
class World:
    """One run.

    Attributes:
        fail_ratio: how many answers are failures.
        life: which process lives; raised by every crash.
    """

    seed: int
    endpoint_count: int = 5
    fail_ratio: float = 0.3
    policy: ShardPolicy = field(
        default_factory=lambda: ShardPolicy(
            retry=RETRY, unsaved_max=40, live_max=60, endpoint_live_max=8, refill_max=4, due_block_max=7
        )
    )

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.now_ms = START_MS
        self.view = View()
        for number in range(self.endpoint_count):
            self._add_endpoint(f"ep_{number}")
        self.deliveries: list[tuple[int, int, bytes | None, bytes | None]] = []
        self.published: dict[str, Delivery] = {}
        self.topics: dict[str, list[tuple[bytes, bytes]]] = defaultdict(list)
        self.acks: list[tuple[int, Publish, int]] = []
        self.flying: list[tuple[int, Dispatch, int | None]] = []
        self.sent: dict[str, list[Sent]] = defaultdict(list)
        self.recorded_success_life: dict[str, int] = {}
        self.crash_repeats: Counter[int] = Counter()
        self.flying_at_crash: dict[int, set[str]] = {}
        self.on_the_way: list[tuple[int, Publish]] = []
        self.cancelled: set[str] = set()
        self.hastened: set[str] = set()
        self.life = 0
        self.store = MemoryStore(shard=0, shard_count=1)
        self.engine: ShardEngine
        self.boot()

    def _add_endpoint(self, endpoint_id: str) -> None:
        self.view.by_id[endpoint_id] = Endpoint(
            id=endpoint_id,
            tenant_id="tenant",
            url="https://example.com/",
            event_types=("*",),
            secrets=(),
            created_at_ms=0,
            updated_at_ms=0,
            max_concurrency=6,
        )

    # What the process does
    # ------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Reconciles and starts; whatever the store is, this is the one way in."""
        self.life += 1
        engine = self.engine = ShardEngine(0, self.life, self.store, self.view, self.policy)
        position = engine.reconcile.position
        at = position.dead_letters_position if position is not None else 0
        letters = self.topics[topics.DEAD_LETTERS.name]
        engine.reconcile.note(
            topics.DEAD_LETTERS.name, [DEAD_LETTER_KEY.decode(key).stamp for key, _ in letters[at:]]
        )
        at = position.transitions_position if position is not None else 0
        records = self.topics[topics.TRANSITIONS.name]
        for start in range(at, len(records), 3):
            engine.reconcile.redo([TRANSITION_KEY.decode(key) for key, _ in records[start : start + 3]])
        ends = {topics.TRANSITIONS.name: len(records), topics.DEAD_LETTERS.name: len(letters)}
        offset = position.deliveries_offset if position is not None else 0
        engine.start(offset, len(self.deliveries), ends)
        self._publish(engine.unpublished(0, 1 << 30))

    def publish_event(self, event_id: str | None = None, data: bytes | None = None) -> None:
        """One event to a few endpoints."""
        event_id = event_id or f"evt_{len(self.deliveries)}"
        data = data if data is not None else event_id.encode()
        for endpoint_id in self.rng.sample(sorted(self.view.by_id), self.rng.randint(1, 2)):
            delivery = Delivery(
                ids.delivery_id(event_id, endpoint_id),
                event_id,
                endpoint_id,
                "tenant",
                "order.created",
                "",
                data,
                ids.content_digest("order.created", data),
                self.now_ms,
                EventPosition(0, len(self.deliveries)),
                1,
            )
            self.published.setdefault(delivery.id, delivery)
            self.deliveries.append((len(self.deliveries), self.now_ms, b"", DELIVERY.encode(delivery)))

    def republish_some(self) -> None:
        """A producer (or `route`, after a crash) writes the same deliveries again."""
        for _, _, key, value in self.rng.sample(self.deliveries, min(3, len(self.deliveries))):
            self.deliveries.append((len(self.deliveries), self.now_ms, key, value))

    def command_some(self) -> None:
        """A person cancels or hastens a delivery, with the attempts that were right a moment ago."""
        _, _, _, value = self.rng.choice(self.deliveries)
        work = decode_work(value or b"")
        if not isinstance(work, Delivery):
            return
        kind = self.rng.choice(list(CommandKind))
        attempts = len(self.sent[work.id]) - self.rng.randint(0, 1)
        command = Command(kind, work.id, work.endpoint_id, "person", attempts)
        if kind is CommandKind.CANCEL:
            self.cancelled.add(work.id)
        elif kind is CommandKind.RETRY_NOW:
            self.hastened.add(work.id)
        self.deliveries.append((len(self.deliveries), self.now_ms, b"", COMMAND.encode(command)))

    def step(self) -> None:
        """One tick of the process: read, settle, act, send."""
        self.now_ms += TICK_MS
        engine = self.engine
        block = self.deliveries[engine.state.next_offset :][: self.rng.randint(1, 20)]
        if block:
            engine.accept(block, self.now_ms)
        done = [flight for flight in self.flying if flight[0] <= self.now_ms]
        if done:
            self.flying = [flight for flight in self.flying if flight[0] > self.now_ms]
            engine.settle([self._outcome(*flight) for flight in done], self.now_ms)
        while engine.next_timer_at_ms() <= self.now_ms and engine.fire_timers(self.now_ms):
            pass
        for dispatch in engine.next_block(self.now_ms, max(0, 20 - len(self.flying))):
            self._send(dispatch)
        self._publish(engine.take_publishes())
        self._acknowledge()
        if self.rng.random() < 0.02:
            engine.review_held(self.now_ms)
            engine.barrier()
        if self.rng.random() < 0.2:
            self.store.sync()

    def _send(self, dispatch: Dispatch) -> None:
        status: int | None = 200
        if self.rng.random() < self.fail_ratio:
            status = self.rng.choice([500, 503, 408, None, None])
        done_at_ms = self.now_ms + self.rng.randint(1, 400)
        delivery_id = dispatch.live.delivery.id
        self.sent[delivery_id].append(Sent(self.now_ms, dispatch.number, self.life, status))
        self.flying.append((done_at_ms, dispatch, status))

    def _outcome(self, done_at_ms: int, dispatch: Dispatch, status: int | None) -> Outcome:
        return Outcome(
            token=(0, dispatch.live.offset),
            started_at_ms=done_at_ms - 1,
            finished_at_ms=done_at_ms,
            status=status,
            error_code=ErrorCode.NONE if status is not None else ErrorCode.TIMEOUT,
        )

    def _publish(self, rows: list[Publish]) -> None:
        """Sends rows on their way; they arrive in order, later, or never when the process dies first."""
        for row in rows:
            arrives_ms = self.now_ms + self.rng.randint(0, 80)
            if self.on_the_way:
                arrives_ms = max(arrives_ms, self.on_the_way[-1][0])
            self.on_the_way.append((arrives_ms, row))

    def _arrive(self, until_ms: int) -> None:
        while self.on_the_way and self.on_the_way[0][0] <= until_ms:
            _, row = self.on_the_way.pop(0)
            records = self.topics[row.topic]
            records.append((row.key, row.value))
            self.acks.append((self.now_ms + self.rng.randint(0, 60), row, len(records) - 1))

    def _acknowledge(self) -> None:
        self._arrive(self.now_ms)
        due = [ack for ack in self.acks if ack[0] <= self.now_ms]
        per_topic: dict[str, list[tuple[int, Publish, int]]] = defaultdict(list)
        for ack in due:
            per_topic[ack[1].topic].append(ack)
        for topic, acks in per_topic.items():
            for _, row, offset in sorted(acks, key=lambda ack: ack[2]):
                waiting = [other for other in self.acks if other[1].topic == topic and other[2] < offset]
                if not waiting:
                    self.engine.acked(topic, [row.sequence], offset)
                    self.acks.remove(next(a for a in self.acks if a[1] is row and a[2] == offset))

    # Faults -------------------------------------------------------------------------------------------------

    def kill(self, *, damaged: MemoryStore | None = None) -> None:
        """The process dies between two steps; what was in flight was sent, nobody recorded it.

        Args:
            damaged: the store as the next process finds it (after a power cut, from a copy, empty). What only
                the lost part of it knew may be sent again.
        """
        repeatable = {dispatch.live.delivery.id for _, dispatch, _ in self.flying}
        if damaged is not None:
            repeatable |= {
                TRANSITION_KEY.decode(row.key).delivery_id
                for _, row in self.on_the_way
                if row.topic == topics.TRANSITIONS.name
            }
            self.store = damaged
        self.flying_at_crash[self.life] = repeatable
        self.flying.clear()
        self.acks.clear()
        self.on_the_way.clear()
        self.boot()

    def stop_cleanly(self) -> None:
        """Nothing new starts, what is in flight ends, the last barrier, the outbox, the sync."""
        while self.flying:
            self.now_ms = max(self.now_ms, min(at for at, _, _ in self.flying))
            done = [flight for flight in self.flying if flight[0] <= self.now_ms]
            self.flying = [flight for flight in self.flying if flight[0] > self.now_ms]
            self.engine.settle([self._outcome(*flight) for flight in done], self.now_ms)
        self._publish(self.engine.take_publishes())
        self._arrive(self.now_ms + 1_000)
        self.engine.barrier(is_clean=True)
        self.store.sync()
        self.acks.clear()
        self.flying_at_crash[self.life] = set()
        self.boot()

    def run_dry(self) -> None:
        """Goes on until nothing waits any more."""
        for _ in range(200_000):
            engine = self.engine
            if engine.state.next_offset == len(self.deliveries) and not self.flying and not self._waiting():
                self._publish(engine.take_publishes())
                self._arrive(self.now_ms + 1_000)
                return
            if not self.flying and not engine.has_work and engine.state.next_offset == len(self.deliveries):
                self.now_ms = max(self.now_ms, min(engine.next_timer_at_ms(), self.now_ms + 5_000))
            self.step()
        message = f"seed {self.seed}: deliveries still wait after 200,000 steps"
        raise AssertionError(message)

    def _waiting(self) -> bool:
        from operators.shard.store_port import Family  # noqa: PLC0415 - only here

        return bool(self.engine.state.live) or self.store.seek(Family.PENDING, b"") is not None

    # Promises -----------------------------------------------------------------------------------------------

    def transitions(self) -> list[tuple[TransitionKey, Transition]]:
        """What the delivery log would show: each stamp once."""
        unique: dict[RowStamp, tuple[TransitionKey, Transition]] = {}
        for key, value in self.topics[topics.TRANSITIONS.name]:
            decoded = TRANSITION_KEY.decode(key)
            unique.setdefault(decoded.stamp, (decoded, TRANSITION.decode(value)))
        return list(unique.values())

    def dead_letters(self) -> list[DeadLetter]:
        """Dead letters, each stamp once."""
        unique = {
            DEAD_LETTER_KEY.decode(k).stamp: DEAD_LETTER.decode(v) for k, v in self.topics["dead_letters"]
        }
        return list(unique.values())

    def check(self, *, is_store_whole: bool) -> None:
        """Asserts the contract over the whole run; the message names the seed."""
        finals: dict[str, list[DeliveryState]] = defaultdict(list)
        for key, _ in self.transitions():
            if key.state.is_final:
                finals[key.delivery_id].append(key.state)
        lost = self.published.keys() - finals.keys()
        assert not lost, f"seed {self.seed}: lost {sorted(lost)[:3]} of {len(self.published)}"
        ghosts = finals.keys() - self.published.keys()
        assert not ghosts, f"seed {self.seed}: ghosts {sorted(ghosts)[:3]}"
        for delivery_id, states in finals.items():
            if DeliveryState.CANCELLED in states:
                assert delivery_id in self.cancelled, f"seed {self.seed}: {delivery_id} cancelled by nobody"
        for delivery_id, requests in self.sent.items():
            self._check_requests(delivery_id, requests)
        if is_store_whole:
            several = {k: v for k, v in finals.items() if len(v) > 1}
            assert not several, f"seed {self.seed}: ended twice {dict(list(several.items())[:3])}"
        for key, value in self.transitions():
            self._check_schedule(key, value)

    def _check_requests(self, delivery_id: str, requests: list[Sent]) -> None:
        for before, after in pairwise(requests):
            is_crash_repeat = before.life != after.life and delivery_id in self.flying_at_crash[before.life]
            if is_crash_repeat:
                self.crash_repeats[before.life] += 1
                continue
            assert before.status != 200, (
                f"seed {self.seed}: {delivery_id} sent again after its success: {requests}"
            )
            assert after.number == before.number + 1, f"seed {self.seed}: attempt numbers {requests}"

    def _check_schedule(self, key: TransitionKey, value: Transition) -> None:
        """A next attempt is due inside its delay's jitter, and none starts before it is due."""
        if key.state is not DeliveryState.RETRYING or value.attempt is None:
            return
        assert value.attempt.number == key.attempt_count
        delay = delay_ms(RETRY, key.schedule_step)
        assert delay is not None
        wait_ms = key.next_attempt_at_ms - value.at_ms
        assert wait_ms <= delay * 1.25, f"seed {self.seed}: late {key}"
        if key.delivery_id not in self.hastened:
            following = [s for s in self.sent[key.delivery_id] if s.number == key.attempt_count + 1]
            early = [s for s in following if s.at_ms < key.next_attempt_at_ms]
            assert not early, f"seed {self.seed}: {key} sent early at {early}"
