"""The route flow, run by Bytewax over a log in memory: matched, ordered, and nothing lost by dying."""

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Entry, GroupOffset, Log, TopicPartition
from dataflows.connectors.table_view import TableView
from dataflows.engine.flow_runner import FlowThread
from dataflows.engine.stop import StopSignal
from dataflows.flows.route import GROUP, Route
from operators.event_identity import identify
from operators.matching import matches
from schemas.delivery import Delivery
from schemas.endpoint import Endpoint
from schemas.errors import Refused
from schemas.event import Event
from schemas.ids import delivery_id, partition_of
from schemas.topics import DELIVERIES, ENDPOINTS, EVENTS, REJECTED
from schemas.wire import records
from tests.simulation.memory_log import START_MS, Died, Fault, MemoryLog, MortalLog

EVENT_PARTITIONS = 3
SHARDS = 4
ENDPOINTS_AT = TopicPartition(ENDPOINTS.name, 0)
REJECTED_AT = TopicPartition(REJECTED.name, 0)
PARTITIONS = {EVENTS.name: EVENT_PARTITIONS, DELIVERIES.name: SHARDS, REJECTED.name: 1, ENDPOINTS.name: 1}


def make_log(*, is_threaded: bool = False) -> MemoryLog:
    return MemoryLog(PARTITIONS, is_threaded=is_threaded)


def make_endpoint(
    name: str, tenant: str = "t1", patterns: Sequence[str] = ("*",), **settings: object
) -> Endpoint:
    return Endpoint(
        id=name,
        tenant_id=tenant,
        url="https://example.com/",
        event_types=tuple(patterns),
        secrets=(),
        created_at_ms=START_MS,
        updated_at_ms=START_MS,
        **settings,  # type: ignore[arg-type]
    )


def put_endpoint(log: MemoryLog, endpoint: Endpoint) -> None:
    log.append_and_wait(ENDPOINTS_AT, [Entry(endpoint.id.encode(), records.ENDPOINT.encode(endpoint))])


def make_event(number: int, tenant: str = "t1", event_type: str = "order.created", **fields: object) -> Event:
    data = msgspec.Raw(b'{"n":%d}' % number)
    return Event(tenant_id=tenant, type=event_type, data=data, **fields)  # type: ignore[arg-type]


def put_events(log: MemoryLog, partition: int, events: Sequence[Event]) -> None:
    entries = [Entry(event.tenant_id.encode(), records.encode_event(event)) for event in events]
    log.append_and_wait(TopicPartition(EVENTS.name, partition), entries)


def is_routed(log: MemoryLog) -> bool:
    for partition in range(EVENT_PARTITIONS):
        of = TopicPartition(EVENTS.name, partition)
        committed = log.committed(GROUP, of)
        if log.end(of) > 0 and (committed is None or committed.offset < log.end(of)):
            return False
    return True


class Running:
    """A route process under test."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.stop = StopSignal()
        self.beats = 0
        self.view = TableView(log, ENDPOINTS.name, records.ENDPOINT.decode)
        self.route = Route(log, self.view, self.stop, beat=self._beat, commit_ms=5)
        self.deaths: list[BaseException] = []
        self.thread = FlowThread(
            "route",
            self.route.build,
            epoch_interval_s=0.1,
            on_death=lambda _, error: self.deaths.append(error),
        )
        self.thread.start()

    def _beat(self) -> None:
        self.beats += 1

    def end(self) -> None:
        self.stop.request()
        assert self.thread.join(10), "the flow did not end"


@contextmanager
def running(log: MemoryLog) -> Iterator[Running]:
    process = Running(log)
    try:
        yield process
    finally:
        process.end()
    assert process.deaths == []


def deliveries_of(log: MemoryLog) -> list[list[Delivery]]:
    """The deliveries by shard, first copies only, each checked to stand where it belongs."""
    shards: list[list[Delivery]] = []
    for shard in range(SHARDS):
        seen: dict[str, Delivery] = {}
        for record in log.records(TopicPartition(DELIVERIES.name, shard)):
            delivery = records.DELIVERY.decode(record.value or b"")
            assert record.key == delivery.id.encode()
            assert partition_of(delivery.endpoint_id, SHARDS) == shard
            first = seen.setdefault(delivery.id, delivery)
            assert (first.body, first.digest, first.event_id) == (
                delivery.body,
                delivery.digest,
                delivery.event_id,
            )
        shards.append(list(seen.values()))
    return shards


def expected_ids(log: MemoryLog, endpoints: Sequence[Endpoint]) -> set[str]:
    ids = set()
    for partition in range(EVENT_PARTITIONS):
        for record in log.records(TopicPartition(EVENTS.name, partition)):
            event = records.decode_event(record.value or b"")
            event_id = identify(event, log.cluster_id, EVENTS.name, partition, record.offset)
            for endpoint in endpoints:
                if endpoint.tenant_id == event.tenant_id and matches(endpoint.event_types, event.type):
                    ids.add(delivery_id(event_id, endpoint.id))
    return ids


def assert_ordered(shards: Sequence[Sequence[Delivery]]) -> None:
    """Deliveries of one endpoint stand in the order of the events of each source partition."""
    for shard in shards:
        last: dict[tuple[str, int], int] = defaultdict(lambda: -1)
        for delivery in shard:
            key = delivery.endpoint_id, delivery.event_position.partition
            assert delivery.event_position.offset > last[key], f"{delivery.id} stands after a later one"
            last[key] = delivery.event_position.offset


def ids_of(shards: Sequence[Sequence[Delivery]]) -> list[str]:
    return [delivery.id for shard in shards for delivery in shard]


def test_every_matching_endpoint_gets_every_event_once() -> None:
    log = make_log()
    endpoints = [
        make_endpoint("ep_all"),
        make_endpoint("ep_orders", patterns=["order.*"]),
        make_endpoint("ep_other", patterns=["invoice.paid"]),
        make_endpoint("ep_foreign", tenant="t2"),
    ]
    for endpoint in endpoints:
        put_endpoint(log, endpoint)
    for partition in range(EVENT_PARTITIONS):
        events = [
            make_event(n, f"t{1 + n % 2}", ("order.created", "invoice.paid")[n % 3 == 0]) for n in range(200)
        ]
        put_events(log, partition, events)
    with running(log) as process:
        log.wait_until(lambda: is_routed(log))
    shards = deliveries_of(log)
    assert set(ids_of(shards)) == expected_ids(log, endpoints)
    assert sum(len(log.records(TopicPartition(DELIVERIES.name, shard))) for shard in range(SHARDS)) == len(
        ids_of(shards)
    )
    assert process.route.counts.events == 600
    assert process.route.counts.deliveries == len(ids_of(shards))
    assert_ordered(shards)


def test_a_delivery_carries_the_frozen_event() -> None:
    log = make_log()
    put_endpoint(log, make_endpoint("ep_1"))
    put_events(log, 1, [make_event(7, id="evt_x", occurred_at_ms=START_MS + 42)])
    with running(log):
        log.wait_until(lambda: is_routed(log))
    (delivery,) = [one for shard in deliveries_of(log) for one in shard]
    assert delivery.event_id == "evt_x"
    assert delivery.body == (
        b'{"id":"evt_x","type":"order.created","timestamp":"2023-11-14T22:13:20.042Z","api_version":"1","data":{"n":7}}'
    )
    assert (delivery.tenant_id, delivery.event_type, delivery.replay_id) == ("t1", "order.created", "")
    assert (delivery.event_position.partition, delivery.event_position.offset) == (1, 0)
    assert (delivery.recorded_at_ms, delivery.matched_at) == (START_MS, 1)


def test_an_endpoint_written_before_the_event_always_gets_it() -> None:
    log = make_log(is_threaded=True)
    with running(log):
        for number in range(60):
            put_endpoint(log, make_endpoint(f"ep_{number}", tenant=f"t{number}"))
            put_events(log, number % EVENT_PARTITIONS, [make_event(number, f"t{number}")])
        log.wait_until(lambda: is_routed(log))
    assert {one.endpoint_id for shard in deliveries_of(log) for one in shard} == {
        f"ep_{n}" for n in range(60)
    }


def test_a_view_that_cannot_be_checked_holds_blocks_back_and_keeps_the_source_polled() -> None:
    log = make_log()
    put_endpoint(log, make_endpoint("ep_1"))
    with running(log) as process:
        log.wait_until(lambda: process.beats > 0)
        log.unknown_ends = {ENDPOINTS.name}
        put_events(log, 0, [make_event(1)])
        beats = process.beats
        log.wait_until(lambda: process.beats > beats + 20)
        assert ids_of(deliveries_of(log)) == []
        log.unknown_ends = set()
        log.wait_until(lambda: is_routed(log))
    assert len(ids_of(deliveries_of(log))) == 1


def test_records_that_are_no_events_go_to_rejected_with_their_position() -> None:
    log = make_log()
    put_endpoint(log, make_endpoint("ep_1"))
    deep = b'{"tenant_id":"t1","type":"a","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    bad = [b"", b"not json", b"\xff\xfe", None, b'{"tenant_id":"t1","type":"no spaces","data":1}', deep]
    bad += [b'{"tenant_id":"t1","type":"a","data":"\xff"}', b'{"tenant_id":"t1","type":"a","data":1,"v":9}']
    bad += [b'{"tenant_id":"t1","type":"a","data":1,"id":"a\\"b"}']
    at = TopicPartition(EVENTS.name, 2)
    log.append_and_wait(at, [Entry(None, value) for value in bad])
    put_events(log, 2, [make_event(1)])
    with running(log):
        log.wait_until(lambda: is_routed(log))
    rejected = [records.REJECTED.decode(record.value or b"") for record in log.records(REJECTED_AT)]
    assert [
        (one.topic, one.partition, one.offset, one.value)
        for one in sorted(rejected, key=lambda one: one.offset)
    ] == [(EVENTS.name, 2, offset, value) for offset, value in enumerate(bad)]
    assert {one.reason for one in rejected} == {"unreadable", "invalid"}
    assert len(ids_of(deliveries_of(log))) == 1


def test_deleted_and_changed_endpoints_count_from_the_moment_they_are_written() -> None:
    log = make_log()
    with running(log):
        put_endpoint(log, make_endpoint("ep_1", patterns=["order.created"]))
        put_events(log, 0, [make_event(1)])
        log.wait_until(lambda: is_routed(log))
        put_endpoint(log, make_endpoint("ep_1", patterns=["invoice.paid"], revision=2))
        put_events(log, 0, [make_event(2), make_event(3, event_type="invoice.paid")])
        log.wait_until(lambda: is_routed(log))
        log.append_and_wait(ENDPOINTS_AT, [Entry(b"ep_1", None)])
        put_events(log, 0, [make_event(4, event_type="invoice.paid")])
        log.wait_until(lambda: is_routed(log))
    offsets = [one.event_position.offset for shard in deliveries_of(log) for one in shard]
    assert offsets == [0, 2]


def test_named_endpoints_get_the_event_whatever_they_subscribed_to() -> None:
    log = make_log()
    for endpoint in (
        make_endpoint("ep_1", patterns=["x"]),
        make_endpoint("ep_2"),
        make_endpoint("ep_3", "t2"),
    ):
        put_endpoint(log, endpoint)
    put_events(log, 0, [make_event(1, endpoint_ids=("ep_1", "ep_3", "ep_none"))])
    with running(log):
        log.wait_until(lambda: is_routed(log))
    assert [one.endpoint_id for shard in deliveries_of(log) for one in shard] == ["ep_1"]


def test_one_event_for_many_endpoints_is_drawn_within_the_bound() -> None:
    log = make_log(is_threaded=True)
    count = 30_000
    entries = []
    for number in range(count):
        endpoint = make_endpoint(f"ep_{number}")
        entries.append(Entry(endpoint.id.encode(), records.ENDPOINT.encode(endpoint)))
    log.append_and_wait(ENDPOINTS_AT, entries)
    put_events(log, 0, [make_event(1)])
    process = Running(log)
    highest = 0

    def watch(_to: TopicPartition, _entries: Sequence[Entry]) -> Fault:
        nonlocal highest
        highest = max(highest, process.route._outflow._appends.entries_open)
        return Fault.NONE

    log.fault = watch
    log.wait_until(lambda: is_routed(log))
    process.end()
    assert len(ids_of(deliveries_of(log))) == count
    assert 0 < highest <= 21_000


@pytest.mark.parametrize("seed", range(6))
def test_faults_and_deaths_lose_nothing_and_keep_the_order(seed: int) -> None:
    chance = random.Random(seed)
    log = make_log(is_threaded=bool(seed % 2))
    endpoints = [make_endpoint(f"ep_{n}", f"t{n % 3}", [("*", "order.*")[n % 2]]) for n in range(9)]
    for endpoint in endpoints:
        put_endpoint(log, endpoint)
    for partition in range(EVENT_PARTITIONS):
        put_events(log, partition, [make_event(n, f"t{chance.randrange(3)}") for n in range(400)])

    def fault(to: TopicPartition, _entries: Sequence[Entry]) -> Fault:
        if to.topic != DELIVERIES.name:
            return Fault.NONE
        return chance.choices([Fault.NONE, Fault.LOST, Fault.UNSURE], [8, 1, 1])[0]

    log.fault = fault
    for _ in range(5):
        process = Running(MortalLog(log, calls_left=chance.randrange(10, 60)))
        log.wait_until(lambda: is_routed(log) or process.deaths != [])  # noqa: B023 - awaited here
        process.end()
        assert all(isinstance(death, Died) for death in process.deaths), f"seed {seed}: {process.deaths}"
    with running(log):
        log.wait_until(lambda: is_routed(log))
    shards = deliveries_of(log)
    assert set(ids_of(shards)) == expected_ids(log, endpoints), f"seed {seed}"
    assert_ordered(shards)


def test_a_stop_commits_everything_that_was_acknowledged() -> None:
    log = make_log()
    put_endpoint(log, make_endpoint("ep_1"))
    for round_ in range(5):
        with running(log) as process:
            put_events(log, round_ % EVENT_PARTITIONS, [make_event(n) for n in range(50)])
            log.wait_until(
                lambda: log.records(TopicPartition(DELIVERIES.name, partition_of("ep_1", SHARDS))) != []
            )
        del process
    with running(log):
        log.wait_until(lambda: is_routed(log))
    copies = log.records(TopicPartition(DELIVERIES.name, partition_of("ep_1", SHARDS)))
    assert len(copies) == len({record.key for record in copies}) == 250


def test_an_offset_below_the_log_start_goes_on_there_and_above_its_end_refuses() -> None:
    log = make_log()
    put_endpoint(log, make_endpoint("ep_1"))
    at = TopicPartition(EVENTS.name, 0)
    put_events(log, 0, [make_event(n) for n in range(10)])
    log.forget_below(at, 6)
    log.commit(GROUP, {at: GroupOffset(2, "")})
    with running(log):
        log.wait_until(lambda: is_routed(log))
    assert [one.event_position.offset for shard in deliveries_of(log) for one in shard] == [6, 7, 8, 9]
    log.commit(GROUP, {at: GroupOffset(99, "")})
    process = Running(log)
    process.thread.join(10)
    assert isinstance(process.deaths[0], Refused)
    assert "99" in str(process.deaths[0])


def test_over_the_local_log_a_restart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def open_log() -> LocalLog:
        return LocalLog.open(
            tmp_path / "log", partitions=PARTITIONS, clock_ms=lambda: START_MS, linger_ms=0.1
        )

    expected: list[bytes] = []
    for round_ in range(3):
        log = open_log()
        try:
            if round_ == 0:
                entry = Entry(b"ep_1", records.ENDPOINT.encode(make_endpoint("ep_1")))
                log.append_and_wait(ENDPOINTS_AT, [entry])
            events = [make_event(n, id=f"evt_{round_}_{n}") for n in range(300)]
            entries = [Entry(b"t1", records.encode_event(event)) for event in events]
            log.append_and_wait(TopicPartition(EVENTS.name, 0), entries)
            expected += [delivery_id(str(event.id), "ep_1").encode() for event in events]
            process = Running(log)
            of = TopicPartition(DELIVERIES.name, partition_of("ep_1", SHARDS))
            deadline_s = time.monotonic() + 20
            while log.end(of) < len(expected) and time.monotonic() < deadline_s:
                process.thread.join(0.005)
            process.end()
            assert process.deaths == []
            committed = log.committed(GROUP, TopicPartition(EVENTS.name, 0))
            assert committed is not None
            assert committed.offset == len(expected)
            reader = log.reader({of: 0})
            found = [record.key for _ in range(10) for record in reader.poll(of, 500)]
            reader.close()
            assert found == expected
        finally:
            log.close()
