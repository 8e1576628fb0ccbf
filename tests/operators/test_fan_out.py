"""Fan-out: what a delivery says follows from the event, its place and the endpoint, and from nothing else."""

import json
import operator

from msgspec import Raw

from operators.endpoint_index import EndpointIndex, Subscriber
from operators.fan_out import FrozenEvent, fan_out, freeze
from schemas.delivery import EventPosition
from schemas.endpoint import Endpoint
from schemas.event import Event
from schemas.ids import content_digest, delivery_id, partition_of

EVENT = Event(tenant_id="t1", type="order.created", data=Raw(b'{"n": 1}'))
POSITION = EventPosition(2, 77)


def subscribers(count: int, api_versions: tuple[str, ...] = ("1",)) -> list[Subscriber]:
    index = EndpointIndex()
    for number in range(count):
        index.upsert(
            Endpoint(
                id=f"ep_{number}",
                tenant_id="t1",
                url="https://example.com/",
                event_types=("*",),
                secrets=(),
                created_at_ms=0,
                updated_at_ms=0,
                api_version=api_versions[number % len(api_versions)],
            )
        )
    return index.match("t1", "order.created", 5_000).subscribers


def frozen(event: Event = EVENT, api_versions: tuple[str, ...] = ("1",)) -> FrozenEvent:
    return freeze(event, "evt_1", 5_000, POSITION, api_versions)


def test_one_delivery_for_each_on_the_shard_of_its_endpoint() -> None:
    some = subscribers(200)
    made = fan_out(frozen(), some, 8, 9)
    assert [delivery.endpoint_id for _, delivery in made] == [one.endpoint_id for one in some]
    for shard, delivery in made:
        assert shard == partition_of(delivery.endpoint_id, 8)
        assert delivery.id == delivery_id("evt_1", delivery.endpoint_id)
        assert (delivery.event_id, delivery.tenant_id, delivery.event_type) == (
            "evt_1",
            "t1",
            "order.created",
        )
        assert (delivery.replay_id, delivery.matched_at, delivery.recorded_at_ms) == ("", 9, 5_000)
        assert delivery.event_position == POSITION
        assert delivery.digest == content_digest("order.created", b'{"n": 1}')
    assert {shard for shard, _ in made} == set(range(8))


def test_doing_it_twice_gives_equal_deliveries() -> None:
    some = subscribers(5)
    assert fan_out(frozen(), some, 8, 9) == fan_out(frozen(), some, 8, 9)


def test_the_body_is_made_once_a_version_and_shared() -> None:
    made = fan_out(frozen(api_versions=("1", "2")), subscribers(4, ("1", "2")), 8, 9)
    bodies = [delivery.body for _, delivery in made]
    assert bodies[0] is bodies[2]
    assert bodies[1] is bodies[3]
    assert [json.loads(body)["api_version"] for body in bodies] == ["1", "2", "1", "2"]
    assert len(set(map(operator.attrgetter("digest"), [delivery for _, delivery in made]))) == 1


def test_the_producers_time_stands_before_the_logs() -> None:
    assert b'"timestamp":"1970-01-01T00:00:05.000Z"' in frozen().bodies["1"]
    said = Event(tenant_id="t1", type="a", data=Raw(b"1"), occurred_at_ms=0)
    assert b'"timestamp":"1970-01-01T00:00:00.000Z"' in frozen(said).bodies["1"]
