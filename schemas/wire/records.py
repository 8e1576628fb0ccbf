"""Every record of every topic, with its kind letter and version; `tests/compat` holds the bytes.

| letter | record | where |
|---|---|---|
| (JSON) | Event | `events` value |
| E | Endpoint | `endpoints` value |
| G | DisabledReport | `endpoint_status` value |
| D | Delivery | `deliveries` value |
| C | Command | `deliveries` value |
| K | TransitionKey | `transitions` key |
| T | Transition | `transitions` value |
| L | DeadLetterKey | `dead_letters` key |
| X | DeadLetter | `dead_letters` value |
| R | Rejected | `rejected` value |
| J / P | ReplayRequest / ReplayProgress | `jobs` value |
| O | ShardClaim | `shards` value |
"""

import msgspec

from schemas.command import Command
from schemas.dead_letter import DeadLetter, DeadLetterKey, Rejected
from schemas.delivery import Delivery
from schemas.endpoint import DisabledReport, Endpoint
from schemas.errors import UnreadableRecord
from schemas.event import Event
from schemas.replay_job import ReplayProgress, ReplayRequest
from schemas.shard_claim import ShardClaim
from schemas.transition import Transition, TransitionKey
from schemas.wire.frame import Frame

EVENT_VERSION = 1
_encode_json = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(Event).decode

ENDPOINT = Frame("E", 1, Endpoint)
DISABLED_REPORT = Frame("G", 1, DisabledReport)
DELIVERY = Frame("D", 1, Delivery)
COMMAND = Frame("C", 1, Command)
TRANSITION_KEY = Frame("K", 1, TransitionKey)
TRANSITION = Frame("T", 1, Transition)
DEAD_LETTER_KEY = Frame("L", 1, DeadLetterKey)
DEAD_LETTER = Frame("X", 1, DeadLetter)
REJECTED = Frame("R", 1, Rejected)
REPLAY_REQUEST = Frame("J", 1, ReplayRequest)
REPLAY_PROGRESS = Frame("P", 1, ReplayProgress)
SHARD_CLAIM = Frame("O", 2, ShardClaim, older=(1,))

_COMMAND_LETTER = COMMAND.prefix[:1]


def encode_event(event: Event) -> bytes:
    """Returns the JSON value of a record of `events`."""
    return _encode_json(event)


def decode_event(raw: bytes) -> Event:
    """Returns the event of a record's value.

    Raises:
        UnreadableRecord: not JSON, a field of the wrong type, a missing field, or an unknown version.
    """
    try:
        event = _decode_event(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"the value is not an event: {error}; see docs/events.md for the format"
        raise UnreadableRecord(message) from error
    if event.v != EVENT_VERSION:
        message = (
            f"event format version {event.v} is not known here (known: {EVENT_VERSION}): upgrade Hooktide"
        )
        raise UnreadableRecord(message)
    return event


def decode_work(raw: bytes) -> Delivery | Command:
    """Returns the delivery or command of a record of `deliveries`.

    Raises:
        UnreadableRecord: neither of the two, or damaged.
    """
    return COMMAND.decode(raw) if raw[:1] == _COMMAND_LETTER else DELIVERY.decode(raw)
