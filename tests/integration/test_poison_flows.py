"""Records that kill: restarted flows park them after three deaths, and their neighbours get through.

A death is an exception that nothing in the flow catches; what the next life finds is the log, the store and
the marks, as after a kill. `test_poison_process.py` does the same with real processes.
"""

import base64
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from dataflows.connectors.key_ring import KeyRing
from dataflows.connectors.log.port import Entry, OnAppended, TopicPartition
from dataflows.connectors.shard_store.memory import MemoryStore
from dataflows.connectors.table_view import TableView
from dataflows.engine.barrier import GROUP as DELIVER_GROUP
from dataflows.engine.flow_runner import FlowThread
from dataflows.engine.outflow import ENTRIES_MAX
from dataflows.engine.stop import StopSignal
from dataflows.engine.try_marks import _AT_PHASE, TryMarks
from dataflows.flows.deliver import Deliver
from dataflows.flows.route import GROUP, Route
from deploy.bench import load
from operators.shard.policy import ShardPolicy
from operators.shard.store_port import Family
from schemas import topics
from schemas.delivery import DeliveryState
from schemas.event import Event
from schemas.ids import partition_of
from schemas.outcome import Outcome, PreparedRequest
from schemas.transition import Reason
from schemas.wire import records
from tests.integration.deadly import MARK, DeadlyStore, LogThatKillsReaders, LogThatKillsWriters, Wrapped
from tests.simulation.memory_log import Died, MemoryLog

SHARDS = 2
ENDPOINTS = 6
NEIGHBOURS = 1_000
DEADLY_NUMBER = 600
LIVES_MAX = 8
LATE_S = 0.01
PARTITIONS = {
    topic.name: SHARDS if topic.spread is topics.Spread.SHARDS else 1 for topic in topics.ALL_TOPICS
}
EVENTS_AT = TopicPartition(topics.EVENTS.name, 0)
REJECTED_AT = TopicPartition(topics.REJECTED.name, 0)


def die() -> NoReturn:
    raise Died


class World:
    """A log with endpoints, through all lives."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = MemoryLog(PARTITIONS)
        self.key_ring = KeyRing.open(base64.b64encode(b"k" * 32).decode(), directory / "master.key")
        self.endpoint_ids = [load.endpoint_id(number) for number in range(ENDPOINTS)]
        for number in range(ENDPOINTS):
            endpoint = load.endpoint(number, "https://example.com/", self.log.now_ms, self.key_ring)
            entry = Entry(endpoint.id.encode(), records.ENDPOINT.encode(endpoint))
            self.log.append_and_wait(TopicPartition(topics.ENDPOINTS.name, 0), [entry])

    def live(self, open_flow: Callable[[StopSignal], Any], is_done: Callable[[], bool]) -> bool:
        """One life of a flow; returns whether it survived until everything was done."""
        stop = StopSignal()
        flows: list[Any] = []

        def build() -> Any:  # noqa: ANN401 - a dataflow
            flows.append(open_flow(stop))
            return flows[0].build()

        thread = FlowThread("flow", build, epoch_interval_s=0.05, on_death=lambda *_: None)
        thread.start()
        self.log.wait_until(lambda: not thread.is_alive or is_done(), timeout_s=30)
        stop.request()
        assert thread.join(20)
        if thread.error is None and isinstance(flows[0], Deliver):
            flows[0].finish(5.0)
        if thread.error is not None and not isinstance(thread.error, Died):
            raise thread.error
        return thread.error is None

    def rejected(self) -> list[Any]:
        kept = [records.REJECTED.decode(record.value or b"") for record in self.log.records(REJECTED_AT)]
        return list({(one.topic, one.partition, one.offset): one for one in kept}.values())


# route ----------------------------------------------------------------------------------------------------


def put_events(world: World) -> int:
    """Appends the neighbours and, among them, the deadly event; returns its offset."""
    for number in range(NEIGHBOURS + 1):
        text = MARK if number == DEADLY_NUMBER else b"harmless"
        data = msgspec.Raw(b'{"n":%d,"t":"%s"}' % (number, text))
        event = Event(tenant_id=load.TENANT, type=load.EVENT_TYPE, data=data)
        world.log.append_and_wait(EVENTS_AT, [Entry(b"", records.encode_event(event))])
    return DEADLY_NUMBER


def is_routed(world: World) -> bool:
    committed = world.log.committed(GROUP, EVENTS_AT)
    return committed is not None and committed.offset >= world.log.end(EVENTS_AT)


def routed(world: World) -> Counter[tuple[int, str]]:
    """The first copies of what was fanned out: (event's offset, endpoint)."""
    found: dict[bytes, tuple[int, str]] = {}
    for shard in range(SHARDS):
        for record in world.log.records(TopicPartition(topics.DELIVERIES.name, shard)):
            delivery = records.DELIVERY.decode(record.value or b"")
            found[record.key or b""] = (delivery.event_position.offset, delivery.endpoint_id)
    return Counter(found.values())


DEADLY_LOGS: dict[str, tuple[Callable[[MemoryLog], Any], int]] = {
    "to decode": (lambda log: LogThatKillsReaders(log, topics.EVENTS.name, die), 3),
    "to append": (lambda log: LogThatKillsWriters(log, [topics.DELIVERIES.name], die), 3),
    "to append, also as rejected": (
        lambda log: LogThatKillsWriters(log, [topics.DELIVERIES.name, topics.REJECTED.name], die),
        4,
    ),
}


@pytest.mark.parametrize("name", DEADLY_LOGS)
def test_an_event_that_kills_is_rejected_after_three_deaths_and_its_neighbours_are_routed(
    tmp_path: Path, name: str
) -> None:
    wrap, deaths_expected = DEADLY_LOGS[name]
    world = World(tmp_path)
    offset = put_events(world)

    def open_route(stop: StopSignal) -> Route:
        marks = TryMarks.open(tmp_path / "tries" / "route", topics.EVENTS.name, "log", 1, group_max=64)
        view = TableView(world.log, topics.ENDPOINTS.name, records.ENDPOINT.decode)
        return Route(wrap(world.log), view, stop, commit_ms=5, marks=marks)

    deaths = 0
    while not world.live(open_route, lambda: is_routed(world)):
        deaths += 1
        assert deaths <= LIVES_MAX

    assert deaths == deaths_expected
    (rejected,) = world.rejected()
    assert (rejected.topic, rejected.partition, rejected.offset) == (topics.EVENTS.name, 0, offset)
    assert rejected.reason == "poison"
    assert (rejected.value is None) == (deaths_expected > 3)
    neighbours = set(range(NEIGHBOURS + 1)) - {offset}
    assert routed(world) == Counter({(n, e): 1 for n in neighbours for e in world.endpoint_ids})


def test_a_route_that_died_at_random_parks_nothing_and_is_not_slowed_down_for_long(tmp_path: Path) -> None:
    """Deaths that are nobody's deed: the log kills at its n-th append, whatever is in it."""
    world = World(tmp_path)
    put_events(world)

    def open_route(stop: StopSignal) -> Route:
        marks = TryMarks.open(tmp_path / "tries" / "route", topics.EVENTS.name, "log", 1, group_max=64)
        view = TableView(world.log, topics.ENDPOINTS.name, records.ENDPOINT.decode)
        return Route(KillsAt(world.log, next(lives)), view, stop, commit_ms=1, marks=marks)

    lives = iter([20, 3, 25, 30, 2, 40, *[1_000_000] * LIVES_MAX])
    while not world.live(open_route, lambda: is_routed(world)):
        pass
    assert world.rejected() == []
    assert routed(world).total() == (NEIGHBOURS + 1) * ENDPOINTS


def test_the_death_of_an_append_that_waited_its_turn_is_the_deed_of_one_record(tmp_path: Path) -> None:
    """Entries wait for those before them; while somebody is suspected, nobody else may be open meanwhile."""
    world = World(tmp_path)
    offset = put_events(world)

    def open_route(stop: StopSignal) -> Route:
        marks = TryMarks.open(tmp_path / "tries" / "route", topics.EVENTS.name, "log", 1, group_max=8)
        view = TableView(world.log, topics.ENDPOINTS.name, records.ENDPOINT.decode)
        deadly = LogThatKillsWriters(LateLog(world.log), [topics.DELIVERIES.name], die)
        return Route(deadly, view, stop, commit_ms=5, marks=marks)

    deaths = 0
    while not world.live(open_route, lambda: is_routed(world)):
        deaths += 1
        assert deaths <= LIVES_MAX
    assert deaths == 3
    assert [one.offset for one in world.rejected()] == [offset]


def test_a_draw_that_waits_for_acknowledgements_leaves_no_mark(tmp_path: Path) -> None:
    """More deliveries than may be open at once: a kill while the rest waits is nobody's deed."""
    world = World(tmp_path)
    endpoints = [
        load.endpoint(number, "https://example.com/", world.log.now_ms)
        for number in range(ENTRIES_MAX + 5_000)
    ]
    entries = [Entry(one.id.encode(), records.ENDPOINT.encode(one)) for one in endpoints]
    world.log.append_and_wait(TopicPartition(topics.ENDPOINTS.name, 0), entries)
    event = Event(tenant_id=load.TENANT, type=load.EVENT_TYPE, data=msgspec.Raw(b"{}"))
    world.log.append_and_wait(EVENTS_AT, [Entry(b"", records.encode_event(event))])

    marks = TryMarks.open(tmp_path / "tries" / "route", topics.EVENTS.name, "log", 1)
    phases_at_polls: set[int] = set()

    def open_route(stop: StopSignal) -> Route:
        view = TableView(world.log, topics.ENDPOINTS.name, records.ENDPOINT.decode)

        def beat() -> None:
            phases_at_polls.add(marks._words[_AT_PHASE])

        return Route(LateLog(world.log), view, stop, beat=beat, commit_ms=5, marks=marks)

    assert world.live(open_route, lambda: is_routed(world))
    assert len(routed(world)) == len(endpoints)
    assert phases_at_polls == {0}


class LateLog(Wrapped):
    """A log that acknowledges a while after it has written."""

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: OnAppended) -> None:
        self._inner.append(
            to, entries, lambda result: threading.Timer(LATE_S, on_appended, (result,)).start()
        )


class KillsAt(LogThatKillsWriters):
    """A log that kills at the n-th append."""

    def __init__(self, inner: MemoryLog, appends_left: int) -> None:
        super().__init__(inner, [], die)
        self._left = count(appends_left, -1)

    def append(self, to: TopicPartition, entries: Sequence[Entry], on_appended: Any) -> None:  # noqa: ANN401
        if next(self._left) <= 0:
            die()
        super().append(to, entries, on_appended)


# deliver --------------------------------------------------------------------------------------------------


class Answering:
    """A sender that answers what it is told; what it was given is the receivers' memory."""

    is_alive = True

    def __init__(self, sent: Counter[str], clock_ms: Callable[[], int]) -> None:
        self.sent = sent
        self.status = 200
        self.is_holding: Callable[[], bool] = lambda: False
        self.is_ending: Callable[[], bool] = lambda: False
        self.is_deadly = False
        self._clock_ms = clock_ms
        self._waiting: deque[PreparedRequest] = deque()

    def submit(self, requests: Sequence[PreparedRequest]) -> None:
        if self.is_deadly and any(MARK in request.body for request in requests):
            die()
        self._waiting.extend(requests)

    def collect(self, outcomes_max: int = 1_000) -> list[Outcome]:
        if self.is_holding():
            return []
        if self.is_ending():
            die()
        now_ms = self._clock_ms()
        answered = [self._waiting.popleft() for _ in range(min(outcomes_max, len(self._waiting)))]
        self.sent.update(dict(request.headers)["webhook-id"] for request in answered)
        return [
            Outcome(token=request.token, started_at_ms=now_ms, finished_at_ms=now_ms, status=self.status)
            for request in answered
        ]

    @property
    def in_flight_count(self) -> int:
        return len(self._waiting)

    def close(self, deadline_s: float) -> None:
        del deadline_s


DEFAULTS = ShardPolicy()


class Case:
    """How the record kills, and what must come of it."""

    def __init__(
        self,
        *,
        log: Callable[[MemoryLog], Any] = lambda log: log,
        store: Callable[[Any], Any] = lambda store: store,
        sender: Callable[[Answering, int], None] = lambda _sender, _life: None,
        policy: ShardPolicy = DEFAULTS,
        deaths: int = 3,
        is_rejected: bool = False,
        is_kept: bool = True,
        is_stored_first: bool = False,
    ) -> None:
        self.log = log
        self.store = store
        self.sender = sender
        self.policy = policy
        self.deaths = deaths
        self.is_rejected = is_rejected
        self.is_kept = is_kept
        self.is_stored_first = is_stored_first


def writes(family: Family, *words: bytes) -> Callable[[Any], Any]:
    """A store that dies of writing a row with these words into the family."""
    return lambda store: DeadlyStore(
        store, die, is_write_deadly=lambda to, value: to is family and all(word in value for word in words)
    )


def send_deadly(sender: Answering, _life: int) -> None:
    sender.is_deadly = True


CASES = {
    "decoded": Case(log=lambda log: LogThatKillsReaders(log, topics.DELIVERIES.name, die), is_rejected=True),
    "accepted": Case(store=writes(Family.PENDING, MARK), policy=ShardPolicy(unsaved_max=0)),
    "saved": Case(
        store=writes(Family.PENDING, MARK),
        sender=lambda sender, _: setattr(sender, "is_holding", lambda: True),
    ),
    "read back": Case(
        store=lambda store: DeadlyStore(store, die, is_read_deadly=True),
        policy=ShardPolicy(endpoint_live_max=4, refill_max=16),
        is_rejected=True,
        is_kept=False,
        is_stored_first=True,
    ),
    "sent": Case(sender=send_deadly),
    "sent, from the store": Case(sender=send_deadly, is_stored_first=True),
    "settled": Case(store=writes(Family.OUTBOX, b"evt_" + b"%026d" % DEADLY_NUMBER, b"delivered")),
    "kept as well": Case(
        store=lambda store: DeadlyStore(store, die, is_write_deadly=lambda _family, value: MARK in value),
        policy=ShardPolicy(unsaved_max=0),
        deaths=4,
        is_kept=False,
    ),
}


def put_deliveries(world: World) -> TopicPartition:
    """Appends the neighbours and, among them, the deadly delivery; returns its partition."""
    for number in range(NEIGHBOURS + 1):
        to = world.endpoint_ids[number % ENDPOINTS]
        body = MARK if number == DEADLY_NUMBER else b"harmless"
        value = records.DELIVERY.encode(load.delivery(number, to, world.log.now_ms, body))
        at = TopicPartition(topics.DELIVERIES.name, partition_of(to, SHARDS))
        world.log.append_and_wait(at, [Entry(b"", value)])
    to = world.endpoint_ids[DEADLY_NUMBER % ENDPOINTS]
    return TopicPartition(topics.DELIVERIES.name, partition_of(to, SHARDS))


def is_stored(world: World) -> bool:
    """Whether the stores hold everything: their barriers stand behind the last record."""
    for shard in range(SHARDS):
        at = TopicPartition(topics.DELIVERIES.name, shard)
        committed = world.log.committed(DELIVER_GROUP, at)
        if committed is None or committed.offset < world.log.end(at):
            return False
    return True


def ends(world: World) -> dict[str, list[tuple[DeliveryState, Reason]]]:
    """The final states by event."""
    found: dict[str, dict[Any, tuple[DeliveryState, Reason]]] = {}
    for shard in range(SHARDS):
        for record in world.log.records(TopicPartition(topics.TRANSITIONS.name, shard)):
            key = records.TRANSITION_KEY.decode(record.key or b"")
            value = records.TRANSITION.decode(record.value or b"")
            if key.state.is_final:
                found.setdefault(value.event_id, {})[key.stamp] = (key.state, value.reason)
    return {event: list(by_stamp.values()) for event, by_stamp in found.items()}


def dead_letters(world: World) -> list[Any]:
    found = {}
    for shard in range(SHARDS):
        for record in world.log.records(TopicPartition(topics.DEAD_LETTERS.name, shard)):
            found[record.key] = records.DEAD_LETTER.decode(record.value or b"")
    return list(found.values())


@pytest.mark.parametrize("name", CASES)
def test_a_delivery_that_kills_is_parked_after_three_deaths_and_its_neighbours_are_delivered(
    tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    world = World(tmp_path)
    deadly_at = put_deliveries(world)
    sent: Counter[str] = Counter()
    stores = {shard: MemoryStore() for shard in range(SHARDS)}
    lives = 0

    def open_deliver(stop: StopSignal) -> Deliver:
        sender = Answering(sent, lambda: world.log.now_ms)
        if not lives:
            sender.is_holding = lambda: not is_stored(world)
            sender.is_ending = lambda: True
            return open_with(stop, world.log, stores, sender)
        case.sender(sender, lives)
        if lives > case.deaths:
            sender.is_holding = lambda: False
        deadly = {shard: case.store(store) for shard, store in stores.items()}
        return open_with(stop, case.log(world.log), deadly, sender)

    def open_with(stop: StopSignal, log: Any, its_stores: Any, sender: Answering) -> Deliver:  # noqa: ANN401
        marks = TryMarks.open(tmp_path / "tries" / "deliver", deadly_at.topic, "log", SHARDS)
        return Deliver(
            log=log,
            stores=its_stores,
            endpoints=TableView(world.log, topics.ENDPOINTS.name, records.ENDPOINT.decode),
            key_ring=world.key_ring,
            sender=sender,
            slots=512,
            policy=case.policy,
            stop=stop,
            clock_ms=lambda: world.log.now_ms,
            wall_ms=lambda: world.log.now_ms,
            barrier_ms=50,
            user_agent="test",
            connect_timeout_ms=1_000,
            sync_ms=20,
            stop_deadline_ms=10_000,
            outbox_bytes_max=64 << 20,
            marks=marks,
        )

    def is_done() -> bool:
        done = len(ends(world)) + len(world.rejected())
        return done >= NEIGHBOURS + 1

    if case.is_stored_first:
        assert not world.live(open_deliver, lambda: False)
    is_alive = False
    while not is_alive:
        lives += 1
        assert lives <= LIVES_MAX
        is_alive = world.live(open_deliver, is_done)
        for store in stores.values():
            store.crash()

    deadly = f"evt_{DEADLY_NUMBER:026d}"
    assert lives == case.deaths + 1
    of_deadly = ends(world).pop(deadly, [])
    neighbours = {event: how for event, how in ends(world).items() if event != deadly}
    assert len(neighbours) == NEIGHBOURS
    assert {how for every in neighbours.values() for how in every} == {
        (DeliveryState.DELIVERED, Reason.DELIVERED)
    }
    assert all(len(every) == 1 for every in neighbours.values())
    if case.is_rejected:
        (rejected,) = world.rejected()
        assert (rejected.topic, rejected.partition, rejected.reason) == (*deadly_at, "poison")
        record = world.log.records(deadly_at, rejected.offset, 1)[0]
        assert MARK in (record.value or b"")
        assert rejected.value == (record.value if case.is_kept else None)
        assert (of_deadly, dead_letters(world)) == ([], [])
    else:
        assert of_deadly == [(DeliveryState.DEAD_LETTERED, Reason.POISON)]
        (letter,) = dead_letters(world)
        assert (letter.delivery.event_id, letter.reason) == (deadly, Reason.POISON)
        assert letter.delivery.body == (MARK if case.is_kept else b"")
        assert world.rejected() == []
    # Nothing is in flight longer than a life: at most one more sending per death, and mostly none.
    assert max(sent.values()) <= case.deaths + 1
