"""What comes out of the engine: values that say what to do. The host does it; nothing here knows how."""

from msgspec import Struct

from operators.shard.live import Live
from schemas.endpoint import Endpoint


class Dispatch(Struct, frozen=True, gc=False):
    """Send this delivery now: its slot is taken, its attempt number is final."""

    live: Live
    endpoint: Endpoint
    number: int


class Publish(Struct, frozen=True, gc=False):
    """Append this outbox row to its topic, in order of `sequence` within the topic.

    `transitions` and `dead_letters` go to the shard's own partition, the others to their only one.
    """

    sequence: int
    topic: str
    key: bytes
    value: bytes


class BarrierMark(Struct, frozen=True):
    """A barrier was written: after the next sync, mirror the group's offset with this stamp."""

    deliveries_offset: int
    barrier: int
