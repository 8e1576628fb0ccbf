"""Publishing: a body becomes one durable record of `events`, and the caller learns its name.

With an idempotency key the key names the event, for ever and in every process; the gate only remembers the answer.
Without one the id is drawn, in time order. Either way the record carries the id, so nobody downstream decides again.

The 202 is given after the log's acknowledgement. When that does not come in time nobody knows whether the
event exists, so the 503 names the event and the key that publishes *this* event again, not another one.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

import msgspec

from api.auth import Principal
from api.bodies import invalid, parse_object, too_large, validate
from api.idempotency_key import event_id_of, retry_key_of
from api.log_writes import LogWrites
from api.metrics import ApiMetrics
from api.problems import ProblemError
from api.recent_events import RecentEvent, RecentEvents
from dataflows.connectors.log.port import Entry, TopicPartition
from operators.endpoint_index import Matches
from operators.event_rules import DATA_BYTES_MAX, violations
from schemas.errors import LogUnavailable
from schemas.event import Event
from schemas.ids import EVENT_PREFIX, partition_of, time_ordered_id
from schemas.problem_codes import ProblemCode
from schemas.rest.event import PublishAnswer, PublishEvent
from schemas.rest.problem import FieldError
from schemas.rest.times import rfc3339
from schemas.topics import EVENTS
from schemas.wire.records import encode_event
