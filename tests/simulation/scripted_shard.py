"""A fixed history of one shard that can die at every single step, and what must come of it each time.

The world outside (records, endpoints, receivers, people) runs by its own clock and does the same in every
run. The process does what the real one does: takes records, settles, fires timers, sends, publishes, writes
barriers. Before and after every write of the store, before every request and before every append stands a
`point`; a run is told at which points to die, and by what: a kill (nothing written is lost), a power cut
(everything since the last sync is lost, or a part of it), an old copy of the store, no store at all.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Self

from msgspec.structs import replace

from dataflows.connectors.shard_store.memory import MemoryStore
from operators.shard.actions import Dispatch, Publish
from operators.shard.engine import ShardEngine
from operators.shard.policy import ShardPolicy
from operators.shard.store_port import Batch, Family
from schemas import ids, topics
from schemas.command import Command, CommandKind
from schemas.delivery import Delivery, DeliveryState, EventPosition
from schemas.endpoint import Endpoint, EndpointStatus, RetryPolicy
from schemas.outcome import ErrorCode, Outcome
from schemas.transition import Reason
from schemas.wire.records import (
    COMMAND,
    DEAD_LETTER_KEY,
    DELIVERY,
    TRANSITION_KEY,
)
from tests.simulation.store_audit import audit

START_MS = 1_800_000_000_000
TICK_MS = 50
TICKS = 130
TICKS_MAX = 1_000
STOP_FROM_TICK = 66
STOP_AT_TICK = 70
BLOCK_RECORDS = 6
SLOTS = 12
BARRIER_TICKS = 8
SYNC_TICKS = 3
COPY_TICKS = 19
FLIGHT_MS = 120
DAY_MS = 86_400_000
RETRY = RetryPolicy(delays_ms=(300, 600, 1_200), window_ms=60_000)
SLOW = replace(RETRY, delays_ms=(20_000,))
SHORT = replace(RETRY, window_ms=1_000)
POLICY = ShardPolicy(
    retry=RETRY, unsaved_max=6, live_max=10, endpoint_live_max=3, refill_max=2, due_block_max=3
)


class Killed(Exception):  # noqa: N818 - it is an event, not an error
    """The process dies here."""


class Death(Enum):
    """How a process dies, and what its store keeps of the batches since the last sync."""

    KILL = "kill"
    POWER_CUT = "power cut"
    POWER_CUT_WITH_A_PART = "power cut with a part on the disk"
    OLD_COPY = "a copy from a while ago was put in the directory's place"
    LOST_DIRECTORY = "the directory is gone"


class MortalStore(MemoryStore):
    """A store at whose every write the process may die, just before it and just after."""

    point: Callable[[], None] | None = None

    def write(self, batch: Batch) -> None:
        if self.point is not None:
            self.point()
        super().write(batch)
        if self.point is not None:
            self.point()

    def copy(self) -> Self:
        point, self.point = self.point, None  # a copy must not take the world along
        copied = super().copy()
        self.point = point
        return copied


class View:
    """The endpoints as the shard sees them."""

    def __init__(self) -> None:
        self.position = 1
        self.by_id: dict[str, Endpoint] = {}

    def get(self, key: str) -> Endpoint | None:
        return self.by_id.get(key)


@dataclass(frozen=True)
class Request:
    """A request as its receiver saw it."""

    delivery_id: str
    endpoint_id: str
    generation: int
    offset: int
    number: int
    at_ms: int
    life: int


@dataclass(frozen=True)
class Answer:
    """What a receiver answers to one attempt."""

    status: int | None = 200
    error: ErrorCode = ErrorCode.NONE
    retry_after: str = ""
    flight_ms: int = FLIGHT_MS


OK = Answer()
Flight = tuple[int, Dispatch, Request, Answer]
End = tuple[DeliveryState, Reason]

DELIVERED: End = (DeliveryState.DELIVERED, Reason.DELIVERED)
CANCELLED: End = (DeliveryState.CANCELLED, Reason.CANCELLED_BY_PERSON)
DELETED: End = (DeliveryState.CANCELLED, Reason.ENDPOINT_DELETED)


def dead(reason: Reason) -> End:
    """Returns the end of a dead letter."""
    return DeliveryState.DEAD_LETTERED, reason


class ScriptedShard:
    """One run of the history.

    Args:
        deaths: at which points the process dies, and how; points count on through all lives.

    Attributes:
        expected: by delivery id, the ends that it may have; several where a death may decide.
        letters: the names of the dead letters that there must be.
        appended: by sequence, the outbox rows that reached their topics, in order.
        flying_at_death: requests whose end no process may have seen.
        is_store_whole: whether every death is a kill: then each promise is exact.
    """

    def __init__(self, deaths: dict[int, Death] | None = None) -> None:
        self.deaths = deaths or {}
        self.is_store_whole = all(death is Death.KILL for death in self.deaths.values())
        self.points = 0
        self.life = 0
        self.tick = 0
        self.view = View()
        self.log: list[tuple[int, int, bytes | None, bytes | None]] = []
        self.topics: dict[str, list[tuple[bytes, bytes]]] = defaultdict(list)
        self.appended: dict[int, list[Publish]] = defaultdict(list)
        self.requests: list[Request] = []
        self.no_attempts: set[Request] = set()
        self.succeeded: set[Request] = set()
        self.flying_at_death: set[Request] = set()
        self.log_ends_at_death: list[int] = []
        self.expected: dict[str, set[End]] = {}
        self.letters: set[str] = set()
        self.names: dict[str, str] = {}
        self.paused_until_ms: dict[str, int] = {}
        self.gone_generations: dict[str, int] = {}
        self.store = MortalStore()
        self.old_copy = self.store.copy()
        self.engine: ShardEngine
        self._script: dict[int, list[Callable[[], object]]] = defaultdict(list)
        self._flying: list[Flight] = []
        self._acks: list[tuple[str, int, int]] = []
        self._is_alive = False
        write_history(self)

    @property
    def now_ms(self) -> int:
        """Milliseconds UTC, in steps of a tick."""
        return START_MS + self.tick * TICK_MS

    def point(self) -> None:
        """A step at which the process may die."""
        self.points += 1
        if self.points in self.deaths:
            raise Killed

    def run(self) -> Self:
        """Runs the history to its end, through its deaths."""
        while self.tick < TICKS or self._has_work():
            assert self.tick < TICKS_MAX, f"still waiting: {list(self.store.scan_all(Family.PENDING))[:2]}"
            try:
                if not self._is_alive:
                    self._boot()
                self._step()
            except Killed:
                self._die()
        return self

    # The world outside ------------------------------------------------------------------------------------

    def at(self, tick: int, action: Callable[[], object]) -> None:
        """Plans what happens outside the process."""
        self._script[tick].append(action)

    def append(self, value: bytes | None, at_ms: int | None = None) -> None:
        """Appends a record to the shard's partition of `deliveries`."""
        self.log.append((len(self.log), self.now_ms if at_ms is None else at_ms, b"key", value))

    def deliver(
        self, name: str, to: str, *ends: End, matched_at: int = 1, age_ms: int = 0, recorded_ms_ago: int = 0
    ) -> Delivery:
        """Appends a delivery that must come to one of these ends."""
        delivery = Delivery(
            ids.delivery_id(name, to),
            name,
            to,
            "tenant",
            "order.created",
            "",
            name.encode(),
            ids.content_digest("order.created", name.encode()),
            self.now_ms - recorded_ms_ago,
            EventPosition(0, len(self.log)),
            matched_at,
        )
        self.names[delivery.id] = name
        if ends:
            self.expected[delivery.id] = set(ends)
            if all(state is DeliveryState.DEAD_LETTERED for state, _ in ends):
                self.letters.add(delivery.id)
        self.append(DELIVERY.encode(delivery), self.now_ms - age_ms)
        return delivery

    def command(self, kind: CommandKind, name: str, to: str, attempt_count: int = 0) -> None:
        """Appends a command."""
        command = Command(kind, ids.delivery_id(name, to), to, "someone", attempt_count)
        self.append(COMMAND.encode(command))

    def put_endpoint(self, endpoint: Endpoint, position: int | None = None) -> None:
        """Changes the view, and tells the process."""
        self.view.by_id[endpoint.id] = endpoint
        if position is not None:
            self.view.position = position
        if self._is_alive:
            self.engine.wake(endpoint.id)

    # The process ------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        self.life += 1
        self.store.point = self.point
        engine = ShardEngine(0, self.life, self.store, self.view, POLICY)
        position = engine.reconcile.position
        letters = self.topics[topics.DEAD_LETTERS.name]
        at = position.dead_letters_position if position is not None else 0
        stamps = [DEAD_LETTER_KEY.decode(key).stamp for key, _ in letters[at:]]
        engine.reconcile.note(topics.DEAD_LETTERS.name, stamps)
        changes = self.topics[topics.TRANSITIONS.name]
        at = position.transitions_position if position is not None else 0
        engine.reconcile.redo([TRANSITION_KEY.decode(key) for key, _ in changes[at:]])
        ends = {topics.TRANSITIONS.name: len(changes), topics.DEAD_LETTERS.name: len(letters)}
        offset = position.deliveries_offset if position is not None else 0
        engine.start(offset, len(self.log), ends)
        audit(self.store)
        self.engine = engine
        self._is_alive = True
        self._append_rows(engine.unpublished(0, 1 << 30))

    def _die(self) -> None:
        """Nothing of the process is left but its store, and what it had sent and appended."""
        death = self.deaths[self.points]
        self._is_alive = False
        self.flying_at_death |= {request for _, _, request, _ in self._flying}
        self.log_ends_at_death.append(len(self.log))
        self._flying.clear()
        self._acks.clear()
        self.store.point = None
        if death is Death.KILL:
            self.store.crash()
        elif death is Death.POWER_CUT:
            self.store.lose_unsynced()
        elif death is Death.POWER_CUT_WITH_A_PART:
            self.store.lose_unsynced(self.store.unsynced_batch_count // 2)
        else:
            self.store = self.old_copy.copy() if death is Death.OLD_COPY else MortalStore()

    def _step(self) -> None:
        """One tick: the world moves on, then the process takes its turn."""
        self.tick += 1
        for action in self._script.pop(self.tick, ()):
            action()
        engine, now_ms = self.engine, self.now_ms
        self._acknowledge()
        engine.accept(self.log[engine.state.next_offset :][:BLOCK_RECORDS], now_ms)
        self._settle()
        while engine.next_timer_at_ms() <= now_ms and engine.fire_timers(now_ms):
            pass
        if not STOP_FROM_TICK <= self.tick < STOP_AT_TICK:
            for dispatch in engine.next_block(now_ms, SLOTS - len(self._flying)):
                self._send(dispatch)
        self._append_rows(engine.take_publishes())
        if self.tick % BARRIER_TICKS == 0:
            engine.review_held(now_ms)
            engine.barrier()
            audit(self.store)
        if self.tick % SYNC_TICKS == 0:
            self.store.sync()
        if self.tick % COPY_TICKS == 0:
            self.old_copy = self.store.copy()
        if self.tick == STOP_AT_TICK and not self._flying:
            engine.barrier(is_clean=True)
            self.store.sync()
            self._is_alive = False  # a graceful stop: the next step boots

    def _settle(self) -> None:
        done = [flight for flight in self._flying if flight[0] <= self.now_ms]
        if not done:
            return
        outcomes = [
            Outcome(
                token=(0, dispatch.live.offset),
                started_at_ms=request.at_ms,
                finished_at_ms=self.now_ms,
                status=answer.status,
                error_code=answer.error,
                headers=(("retry-after", answer.retry_after),) if answer.retry_after else (),
            )
            for _, dispatch, request, answer in done
        ]
        self.engine.settle(outcomes, self.now_ms)
        self._flying = [flight for flight in self._flying if flight not in done]
        for _, _, request, answer in done:
            if answer.status == 429:
                self.paused_until_ms[request.endpoint_id] = self.now_ms + int(answer.retry_after) * 1_000
            elif answer.status == 410:
                self.gone_generations[request.endpoint_id] = request.generation

    def _send(self, dispatch: Dispatch) -> None:
        self.point()
        live, to = dispatch.live, dispatch.endpoint
        name = self.names[live.delivery.id]
        is_first = all(request.delivery_id != live.delivery.id for request in self.requests)
        request = Request(
            live.delivery.id, to.id, to.generation, live.offset, dispatch.number, self.now_ms, self.life
        )
        self.requests.append(request)
        if self.is_store_whole:
            assert self.now_ms >= self.paused_until_ms.get(to.id, 0), f"{name} sent into a pause"
            assert to.generation > self.gone_generations.get(to.id, 0), f"{name} sent to a gone endpoint"
        answer = answer_of(name, dispatch.number, is_first=is_first)
        if answer.error.is_ours:
            self.no_attempts.add(request)
        if answer.status == 200:
            self.succeeded.add(request)
        self._flying.append((self.now_ms + answer.flight_ms, dispatch, request, answer))

    def _append_rows(self, rows: list[Publish]) -> None:
        """Appends rows to their topics; they are acknowledged in the next tick, if the process lives."""
        for row in rows:
            self.point()
            records = self.topics[row.topic]
            records.append((row.key, row.value))
            self.appended[row.sequence].append(row)
            self._acks.append((row.topic, row.sequence, len(records) - 1))

    def _acknowledge(self) -> None:
        acks, self._acks = self._acks, []
        for topic, sequence, offset in acks:
            self.engine.acked(topic, [sequence], offset)

    def _has_work(self) -> bool:
        return (
            not self._is_alive
            or bool(self._flying or self._acks)
            or self.engine.state.next_offset < len(self.log)
            or bool(self.engine.state.live)
            or self.store.seek(Family.PENDING, b"") is not None
        )


def endpoint(
    name: str,
    *,
    status: EndpointStatus = EndpointStatus.ACTIVE,
    generation: int = 1,
    max_concurrency: int = 4,
    retry: RetryPolicy | None = None,
) -> Endpoint:
    """Returns an endpoint."""
    return Endpoint(
        id=name,
        tenant_id="tenant",
        url=f"https://{name}.example/",
        event_types=("*",),
        secrets=(),
        created_at_ms=0,
        updated_at_ms=0,
        status=status,
        generation=generation,
        max_concurrency=max_concurrency,
        retry=retry,
    )


def answer_of(name: str, number: int, *, is_first: bool) -> Answer:
    """Returns what the receiver answers; it depends on nothing that a death could change."""
    kind = name.split("-", maxsplit=1)[0]
    if kind in ("fault", "cut") and is_first:
        return Answer(None, ErrorCode.OUR_FAULT if kind == "fault" else ErrorCode.OUR_SHUTDOWN)
    if kind == "long":
        return Answer(500 if name == "long-bad" else 200, flight_ms=8 * TICK_MS)
    failing = {
        "flaky": Answer(500) if number <= 2 else OK,
        "dead": Answer(503) if number % 2 else Answer(None, ErrorCode.TIMEOUT),
        "permanent": Answer(404),
        "gone": Answer(410),
        "limited": Answer(429, retry_after="1") if number == 1 else OK,
        "once": Answer(500) if number == 1 else OK,
    }
    return failing.get(kind, OK)


def write_history(run: ScriptedShard) -> None:
    """Plans everything that happens outside: a little of all that a delivery can go through."""
    for known in (
        endpoint("ep_ok", max_concurrency=2),
        endpoint("ep_bad"),
        endpoint("ep_gone", max_concurrency=1),
        endpoint("ep_limited", max_concurrency=1),
        endpoint("ep_paused", status=EndpointStatus.PAUSED, retry=SHORT),
        endpoint("ep_resumed", status=EndpointStatus.PAUSED),
        endpoint("ep_slow", retry=SLOW),
        endpoint("ep_ours"),
    ):
        run.view.by_id[known.id] = known
    _write_plain(run)
    _write_refused(run)
    _write_held(run)
    _write_people(run)
    # After the graceful stop
    for number in range(20, 24):
        run.at(STOP_AT_TICK + 2, lambda number=number: run.deliver(f"ok-{number}", "ep_ok", DELIVERED))  # type: ignore[misc]
    run.at(STOP_AT_TICK + 2, lambda: run.deliver("flaky-9", "ep_bad", DELIVERED))
    run.at(STOP_AT_TICK + 3, lambda: run.deliver("permanent-9", "ep_bad", dead(Reason.PERMANENT_STATUS)))


def _write_plain(run: ScriptedShard) -> None:
    def burst() -> None:
        for number in range(9):
            run.deliver(f"ok-{number}", "ep_ok", DELIVERED)

    def repeats() -> None:
        run.deliver("ok-1", "ep_ok")
        run.deliver("flaky-1", "ep_bad")

    run.at(1, burst)
    run.at(2, lambda: run.deliver("flaky-1", "ep_bad", DELIVERED))
    run.at(2, lambda: run.deliver("flaky-2", "ep_bad", DELIVERED))
    run.at(2, lambda: run.deliver("dead-1", "ep_bad", dead(Reason.RETRIES_EXHAUSTED)))
    run.at(3, lambda: run.deliver("permanent-1", "ep_bad", dead(Reason.PERMANENT_STATUS)))
    run.at(9, repeats)
    run.at(40, repeats)
    run.at(14, lambda: run.deliver("fault-1", "ep_ours", DELIVERED))
    run.at(15, lambda: run.deliver("cut-1", "ep_ours", DELIVERED))


def _write_refused(run: ScriptedShard) -> None:
    def conflict() -> None:
        accepted = run.deliver("ok-2", "ep_ok")
        run.log.pop()
        other = replace(accepted, body=b"other", digest=b"another!", event_position=EventPosition(7, 77))
        run.append(DELIVERY.encode(other))
        run.letters.add(f"{accepted.id}@7.77")

    def too_old() -> None:
        old = run.deliver("old-1", "ep_ok", recorded_ms_ago=8 * DAY_MS)
        run.letters.add(f"{old.id}@{old.event_position.partition}.{old.event_position.offset}")

    run.at(7, conflict)
    run.at(7, too_old)
    run.at(8, lambda: run.deliver("expired-1", "ep_ok", dead(Reason.EXPIRED), age_ms=RETRY.window_ms + 1))
    run.at(8, lambda: run.append(b"?"))
    run.at(8, lambda: run.append(None))


def _write_held(run: ScriptedShard) -> None:
    run.at(3, lambda: run.deliver("gone-1", "ep_gone", dead(Reason.ENDPOINT_GONE)))
    run.at(3, lambda: run.deliver("ok-gone-2", "ep_gone", DELIVERED))
    run.at(3, lambda: run.deliver("ok-gone-3", "ep_gone", DELIVERED))
    run.at(45, lambda: run.put_endpoint(endpoint("ep_gone", generation=2)))
    run.at(4, lambda: run.deliver("limited-1", "ep_limited", DELIVERED))
    run.at(4, lambda: run.deliver("ok-limited-2", "ep_limited", DELIVERED))
    run.at(5, lambda: run.deliver("ok-paused-1", "ep_paused", dead(Reason.EXPIRED_WHILE_HELD)))
    run.at(6, lambda: run.deliver("ok-paused-2", "ep_paused", dead(Reason.EXPIRED_WHILE_HELD)))
    for number in range(5):
        run.at(5, lambda number=number: run.deliver(f"ok-resumed-{number}", "ep_resumed", DELIVERED))  # type: ignore[misc]
    run.at(50, lambda: run.put_endpoint(endpoint("ep_resumed")))
    run.at(6, lambda: run.deliver("ok-new", "ep_new", DELIVERED, matched_at=5))
    run.at(6, lambda: run.deliver("ok-late", "ep_late", DELETED, matched_at=5))
    run.at(6, lambda: run.deliver("ok-lost", "ep_lost", DELETED))
    run.at(30, lambda: run.put_endpoint(endpoint("ep_new"), position=5))


def _write_people(run: ScriptedShard) -> None:
    def born_cancelled() -> None:
        run.deliver("ok-resumed-9", "ep_resumed", CANCELLED)
        run.command(CommandKind.CANCEL, "ok-resumed-9", "ep_resumed")
        run.deliver("ok-resumed-9", "ep_resumed")

    def hurry_twice() -> None:
        run.command(CommandKind.RETRY_NOW, "once-1", "ep_slow", attempt_count=1)
        run.command(CommandKind.RETRY_NOW, "once-1", "ep_slow", attempt_count=1)

    run.at(10, lambda: run.deliver("once-due", "ep_slow", CANCELLED))
    run.at(16, lambda: run.command(CommandKind.CANCEL, "once-due", "ep_slow"))
    run.at(10, lambda: run.deliver("long-good", "ep_bad", DELIVERED, CANCELLED))
    run.at(10, lambda: run.deliver("long-bad", "ep_bad", CANCELLED))
    run.at(13, lambda: run.command(CommandKind.CANCEL, "long-good", "ep_bad"))
    run.at(13, lambda: run.command(CommandKind.CANCEL, "long-bad", "ep_bad"))
    run.at(5, lambda: run.deliver("ok-resumed-8", "ep_resumed", CANCELLED))
    run.at(20, lambda: run.command(CommandKind.CANCEL, "ok-resumed-8", "ep_resumed"))
    run.at(12, born_cancelled)
    run.at(12, lambda: run.deliver("once-1", "ep_slow", DELIVERED))
    run.at(24, hurry_twice)
