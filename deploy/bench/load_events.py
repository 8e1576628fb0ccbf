"""Made-up events in the log: what `route` and the whole pipeline start from."""

import msgspec

from dataflows.connectors.log.port import Entry
from deploy.bench import load
from deploy.bench.world import BenchWorld
from schemas import topics
from schemas.event import Event
from schemas.ids import partition_of
from schemas.wire.records import encode_event


def event_value(number: int, data: bytes) -> bytes:
    """Returns the n-th event's record."""
    event = Event(
        tenant_id=load.TENANT, type=load.EVENT_TYPE, data=msgspec.Raw(data), id=f"evt_{number:026d}"
    )
    return encode_event(event)


def fill_events(world: BenchWorld, count: int, first: int = 0) -> None:
    """Appends `count` events of one tenant, numbered from `first`, and waits until they are durable."""
    partition = partition_of(load.TENANT, world.log.partition_count(topics.EVENTS.name))
    data = load.body_of()
    entries = [Entry(load.TENANT.encode(), event_value(first + number, data)) for number in range(count)]
    world.append(topics.EVENTS.name, partition, entries)
