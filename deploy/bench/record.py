"""The `record` dataflow alone: a delivery and its one transition with an attempt, from the log into chdb."""

from collections import defaultdict
from pathlib import Path

from dataflows.connectors.delivery_log.chdb import ChdbLog
from dataflows.connectors.log.port import Entry
from dataflows.engine.flow_runner import run_flow
from dataflows.engine.stop import StopSignal
from dataflows.flows.record import Record
from deploy.bench import load
from deploy.bench.figure import Figure, Meter
from deploy.bench.load_events import fill_events
from deploy.bench.world import BenchWorld, bench_world, clock_ms
from schemas import topics
from schemas.attempt import Attempt
from schemas.delivery import DeliveryState, Lane
from schemas.ids import partition_of
from schemas.outcome import ErrorCode
from schemas.settings import RecordSettings
from schemas.transition import Reason, RowStamp, Transition, TransitionKey
from schemas.wire.records import DELIVERY, TRANSITION, TRANSITION_KEY

ENDPOINTS = 100


def run(directory: Path, count: int) -> Figure:
    """Measures `count` deliveries: an event, a delivery and a transition with an attempt each."""
    settings = RecordSettings()
    meter = Meter()
    with bench_world(directory, "https://example.com/", ENDPOINTS) as world:
        fill_events(world, count)
        _fill(world, count)
        delivery_log = ChdbLog(directory / "delivery_log")
        delivery_log.migrate()
        stop = StopSignal()
        record: Record | None = None

        def beat() -> None:
            if record is not None and record.is_caught_up():
                stop.request()

        record = Record(
            world.log,
            delivery_log,
            stop,
            rows_max=settings.rows_max,
            interval_ms=settings.interval_ms,
            beat=beat,
        )
        flow = record.build()
        with meter.running():
            run_flow(flow, epoch_interval_s=1.0)
        note = f"{record.counts.rows} rows in {record.counts.batches} batches"
        delivery_log.close()
    return meter.figure("record", "event, delivery, attempt and state of each", count, note)


def _fill(world: BenchWorld, count: int) -> None:
    shards = world.log.partition_count(topics.DELIVERIES.name)
    deliveries: dict[int, list[Entry]] = defaultdict(list)
    transitions: dict[int, list[Entry]] = defaultdict(list)
    now_ms, body = clock_ms(), load.body_of()
    for number in range(count):
        endpoint_id = world.endpoint_ids[number % ENDPOINTS]
        shard = partition_of(endpoint_id, shards)
        sent = load.delivery(number, endpoint_id, now_ms, body)
        deliveries[shard].append(Entry(b"", DELIVERY.encode(sent)))
        stamp = RowStamp(1, len(transitions[shard]) + 1)
        key = TransitionKey(
            sent.id,
            stamp,
            endpoint_id,
            Lane.FRESH,
            number,
            DeliveryState.DELIVERED,
            1,
            1,
            0,
            sent.digest,
            now_ms,
        )
        value = Transition(
            sent.event_id, sent.tenant_id, sent.event_type, "", Reason.DELIVERED, now_ms, _attempt(now_ms)
        )
        transitions[shard].append(Entry(TRANSITION_KEY.encode(key), TRANSITION.encode(value)))
    for topic, filled in ((topics.DELIVERIES, deliveries), (topics.TRANSITIONS, transitions)):
        for shard, entries in filled.items():
            world.append(topic.name, shard, entries)


def _attempt(now_ms: int) -> Attempt:
    return Attempt(
        number=1,
        started_at_ms=now_ms,
        finished_at_ms=now_ms + 12,
        url="https://example.com/",
        status=200,
        error_code=ErrorCode.NONE,
        error_detail="",
        headers=(("content-type", "application/json"), ("content-length", "15")),
        body=b'{"status":"ok"}',
        is_body_truncated=False,
        queued_us=1_000,
        connect_us=0,
        first_byte_us=11_000,
        total_us=12_000,
        peer="192.0.2.1:443",
        is_reused_connection=True,
        requests_sent=1,
        after_crash=False,
    )
