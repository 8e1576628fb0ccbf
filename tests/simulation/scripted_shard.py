"""A fixed history of one shard that can die at every single step, and what must come of it each time.

The world outside (records, endpoints, receivers, people) runs by its own clock and does the same in every
run. The process does what the real one does: takes records, settles, fires timers, sends, publishes, writes
barriers. Before and after every write of the store, before every request and before every append stands a
`point`; a run is told at which points to die, and by what: a kill (nothing written is lost) or a power cut
(everything since the last sync is lost, or a part of it).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
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
from schemas.attempt import Attempt
from schemas.command import Command, CommandKind
from schemas.delivery import Delivery, DeliveryState, EventPosition
from schemas.endpoint import Endpoint, EndpointStatus, RetryPolicy
from schemas.outcome import ErrorCode, Outcome
from schemas.transition import Reason, Transition, TransitionKey
from schemas.wire.records import (
    COMMAND,
    DEAD_LETTER,
    DEAD_LETTER_KEY,
    DELIVERY,
    TRANSITION,
    TRANSITION_KEY,
)
from tests.simulation.store_audit import audit

START_MS = 1_800_000_000_000
TICK_MS = 50
TICKS = 130
TICKS_MAX = 1_000
STOP_AT_TICK = 70
BARRIER_TICKS = 8
SYNC_TICKS = 3
FLIGHT_MS = 120
LONG_FLIGHT_MS = 400
DAY_MS = 86_400_000
RETRY = RetryPolicy(delays_ms=(300, 600, 1_200), window_ms=60_000)
SHORT = replace(RETRY, window_ms=1_000)
POLICY = ShardPolicy(retry=RETRY, unsaved_max=6, live_max=10, endpoint_live_max=3, refill_max=2, due_block_max=3)


class Killed(Exception):  # noqa: N818 - it is an event, not an error
    """The process dies here."""


class Death(Enum):
    """How a process dies, and what its store keeps of the batches since the last sync."""

    KILL = "kill"
    POWER_CUT = "power cut"
    POWER_CUT_WITH_A_PART = "power cut with a part on the disk"


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
    retry_after_s: int | None = None
    flight_ms: int = FLIGHT_MS


OK = Answer()
FAULT = Answer(None, ErrorCode.OUR_FAULT)
Flight = tuple[int, Dispatch, Answer]


class ScriptedShard:
    """One run of the history.

    Args:
        deaths: at which points the process dies, and how; points count on through all lives.
    """

    def __init__(self, deaths: dict[int, Death] | None = None) -> None:
        self.deaths = deaths or {}
        self.points = 0
        self.life = 0
        self.tick = 0
        self.view = View()
        self.log: list[tuple[int, int, bytes | None, bytes | None]] = []
        self.topics: dict[str, list[tuple[bytes, bytes]]] = defaultdict(list)
        self.requests: list[Request] = []
        self.in_flight_at_death: list[Request] = []
        self.answers: dict[tuple[str, int], Answer] = {}
        self.names: dict[str, str] = {}
        self.script: dict[int, list[Callable[[], None]]] = defaultdict(list)
        self.appended_at_tick: dict[int, int] = {}
        self.death_ticks: list[int] = []
        self._flying: list[Flight] = []
        self._request_of: dict[int, Request] = {}
        self._acks: list[tuple[str, int, int]] = []
        self._store = MortalStore()
        self._is_stopping = False
        self._write_script()

    @property
    def now_ms(self) -> int:
        return START_MS + self.tick * TICK_MS

    def run(self) -> Self:
        """Runs the history to its end, through its deaths."""
        self._store.point = self.point
        is_booted = False
        while self.tick < TICKS or self._has_work():
            assert self.tick < TICKS_MAX, f"still waiting: {list(self._store.scan_all(Family.PENDING))[:2]}"
            if not is_booted or self._is_begun:
                pass
            try:
                if not is_booted:
                    self._boot()
                    is_booted = True
                self._step()
            except Killed:
                self._die()
                is_booted = False
        return self
