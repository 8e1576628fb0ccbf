"""A real `deliver` flow over a real local log and real shard directories, with everything in a test's reach.

The sender answers at once, in the process, and is the witness: it keeps every request it was given. The clock
runs by itself and can be set forward between two runs, so that a retry in ten minutes is no long test.
"""

import base64
import shutil
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from dataflows.connectors.key_ring import KeyRing
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Entry, TopicPartition
from dataflows.connectors.shard_store.setting_aside import open_or_set_aside
from dataflows.connectors.table_view import TableView
from dataflows.engine.flow_runner import FlowThread
from dataflows.engine.shard_claims import Terms
from dataflows.engine.start_progress import StartProgress
from dataflows.engine.stop import StopSignal
from dataflows.flows.deliver import Deliver
from operators.shard.policy import ShardPolicy
from schemas import ids, topics
from schemas.command import Command, CommandKind
from schemas.delivery import Delivery, EventPosition
from schemas.endpoint import Endpoint, RetryPolicy
from schemas.errors import HooktideError
from schemas.ids import partition_of
from schemas.outcome import Outcome, PreparedRequest
from schemas.topics import Spread
from schemas.transition import Transition, TransitionKey
from schemas.wire.records import COMMAND, DEAD_LETTER_KEY, DELIVERY, ENDPOINT, TRANSITION, TRANSITION_KEY

SHARDS = 4
MINUTE_MS = 60_000
RETRY = RetryPolicy(delays_ms=(10 * MINUTE_MS, 30 * MINUTE_MS), window_ms=72 * 60 * MINUTE_MS)
BARRIER_S = 0.2
PATIENCE_S = 40.0
BODY = b'{"order":1}'


class Sent(NamedTuple):
    """One request as its receiver saw it."""

    event_id: str
    endpoint_id: str
    at_ms: int


class Receivers:
    """A `Sender` whose endpoints answer at once: 200, or what `status` says by endpoint."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self.sent: list[Sent] = []
        self.status: dict[str, int] = {}
        self._clock_ms = clock_ms
        self._waiting: deque[PreparedRequest] = deque()

    def submit(self, requests: Sequence[PreparedRequest]) -> None:
        now_ms = self._clock_ms()
        self.sent += [Sent(dict(r.headers)["webhook-id"], r.pool_key, now_ms) for r in requests]
        self._waiting.extend(requests)

    def collect(self, outcomes_max: int = 1_000) -> list[Outcome]:
        now_ms = self._clock_ms()
        done = [self._waiting.popleft() for _ in range(min(outcomes_max, len(self._waiting)))]
        return [
            Outcome(
                token=request.token,
                started_at_ms=now_ms,
                finished_at_ms=now_ms,
                status=self.status.get(request.pool_key, 200),
            )
            for request in done
        ]

    @property
    def in_flight_count(self) -> int:
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        return True

    def close(self, deadline_s: float) -> None:
        del deadline_s


class ShardsOnDisk:
    """A data directory with a log and shards, and at most one `deliver` over it.

    Args:
        directory: empty.
        log: another one's, for two that claim the same shards.

    Attributes:
        ahead_ms: how far the clock is ahead of the real one.
        receivers: the witness.
        progress: of the last start.
    """

    def __init__(self, directory: Path, log: LocalLog | None = None) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.ahead_ms = 0
        self.receivers = Receivers(self.now_ms)
        self.progress = StartProgress()
        self.log: LocalLog
        self._key_ring = KeyRing.open(base64.b64encode(b"k" * 32).decode(), directory / "master.key")
        self._number = 0
        self._stop = StopSignal()
        self._deaths: list[BaseException] = []
        if log is None:
            self.open_log()
        else:
            self.log = log

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    # The log ----------------------------------------------------------------------------------------------

    def open_log(self) -> None:
        counts = {Spread.ONE: 1, Spread.TENANTS: 2, Spread.SHARDS: SHARDS}
        partitions = {topic.name: counts[topic.spread] for topic in topics.ALL_TOPICS}
        self.log = LocalLog.open(self.directory / "log", partitions=partitions, clock_ms=self.now_ms)

    def copy_log(self, name: str) -> Path:
        """Returns a copy of the log as a backup holds it."""
        self.log.close()
        shutil.copytree(self.directory / "log", self.directory / name)
        self.open_log()
        return self.directory / name

    def replace_log(self, by: Path | None) -> None:
        self.log.close()
        shutil.rmtree(self.directory / "log")
        if by is not None:
            shutil.copytree(by, self.directory / "log")
        self.open_log()

    def shard_of(self, endpoint_id: str) -> int:
        return partition_of(endpoint_id, SHARDS)

    def put_endpoint(self, name: str, **settings: object) -> Endpoint:
        plain = Endpoint(
            id=name,
            tenant_id="tenant",
            url=f"https://{name}.example/",
            event_types=("*",),
            secrets=(self._key_ring.seal(b"s" * 32, name),),
            created_at_ms=0,
            updated_at_ms=0,
            retry=RETRY,
        )
        endpoint = replace(plain, **settings)
        entry = Entry(name.encode(), ENDPOINT.encode(endpoint))
        self.log.append_and_wait(TopicPartition(topics.ENDPOINTS.name, 0), [entry])
        return endpoint

    def deliver(self, endpoint_id: str, count: int) -> list[Delivery]:
        """Appends fanned-out deliveries of new events; returns when they are acknowledged."""
        now_ms, made = self.now_ms(), []
        for _ in range(count):
            self._number += 1
            event_id = f"evt_{self._number:026d}"
            made.append(
                Delivery(
                    ids.delivery_id(event_id, endpoint_id),
                    event_id,
                    endpoint_id,
                    "tenant",
                    "order.created",
                    "",
                    BODY,
                    ids.content_digest("order.created", BODY),
                    now_ms,
                    EventPosition(0, self._number),
                    0,
                )
            )
        self._append(endpoint_id, [Entry(b"", DELIVERY.encode(one)) for one in made])
        return made

    def cancel(self, deliveries: Sequence[Delivery]) -> None:
        for one in deliveries:
            command = Command(CommandKind.CANCEL, one.id, one.endpoint_id, "someone")
            self._append(one.endpoint_id, [Entry(b"", COMMAND.encode(command))])

    def _append(self, endpoint_id: str, entries: Sequence[Entry]) -> None:
        of = TopicPartition(topics.DELIVERIES.name, self.shard_of(endpoint_id))
        for start in range(0, len(entries), 2_000):
            self.log.append_and_wait(of, entries[start : start + 2_000], timeout_s=30.0)

    # The flow ---------------------------------------------------------------------------------------------

    def shard_directory(self, shard: int) -> Path:
        return self.directory / "shards" / f"{shard:04d}"

    def start(self, *, rebuild: bool = False, wait_ms: int = 0) -> None:
        """Starts the flow.

        Raises:
            HooktideError: it may not start.
        """
        directories = {shard: self.shard_directory(shard) for shard in range(SHARDS)}
        opened = {}
        try:
            for shard, path in directories.items():
                opened[shard] = open_or_set_aside(path, shard=shard, shard_count=SHARDS, now_ms=self.now_ms())
            view = TableView(self.log, topics.ENDPOINTS.name, ENDPOINT.decode)
            while view.catch_up():
                pass
            self._stop = StopSignal()
            self.progress = StartProgress()
            self.deliver_flow = Deliver(
                log=self.log,
                stores={shard: one.store for shard, one in opened.items()},
                endpoints=view,
                key_ring=self._key_ring,
                sender=self.receivers,
                slots=512,
                policy=ShardPolicy(retry=RETRY),
                stop=self._stop,
                clock_ms=self.now_ms,
                wall_ms=self.now_ms,
                barrier_ms=round(BARRIER_S * 1_000),
                user_agent="test",
                connect_timeout_ms=1_000,
                sync_ms=20,
                stop_deadline_ms=20_000,
                outbox_bytes_max=1 << 30,
                terms=Terms(
                    rebuild=rebuild,
                    wait_ms=wait_ms,
                    replaced=frozenset(shard for shard, one in opened.items() if one.aside is not None),
                    directories={shard: str(path) for shard, path in directories.items()},
                ),
                progress=self.progress,
            )
        except BaseException:
            for one in opened.values():
                one.store.close()
            raise
        for one in opened.values():
            one.settle()
        self._deaths = []
        self._thread = FlowThread(
            "deliver",
            self.deliver_flow.build,
            epoch_interval_s=BARRIER_S,
            on_death=lambda _, error: self._deaths.append(error),
        )
        self._thread.start()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not holds():
            if self._deaths:
                raise self._deaths[0]
            assert time.monotonic() < until_s, f"did not come true: {len(self.receivers.sent)} requests"
            time.sleep(0.01)

    def death(self) -> BaseException:
        """Waits until the flow has died; returns of what, and leaves its directories as the dead do."""
        assert self._thread.join(PATIENCE_S)
        (death,) = self._deaths
        with suppress(HooktideError):
            self.deliver_flow.sync.close()
        return death

    def stop(self) -> None:
        """Stops gracefully."""
        self._stop.request()
        assert self._thread.join(PATIENCE_S)
        if self._deaths:
            raise self._deaths[0]
        self.deliver_flow.finish(10.0)

    def is_idle(self) -> bool:
        """Whether every record was taken, and nothing can be sent now."""
        runtimes = self.deliver_flow.runtimes.values()
        return all(
            runtime.engine.state.next_offset
            >= self.log.end(TopicPartition(topics.DELIVERIES.name, runtime.engine.state.shard))
            and not runtime.engine.state.in_flight_count
            and not runtime.engine.has_work
            and not runtime.outbox_backlog
            for runtime in runtimes
        )

    def run(self, *, rebuild: bool = False, until: Callable[[], bool] | None = None) -> None:
        """Starts, waits until nothing can be sent any more, and stops gracefully."""
        self.start(rebuild=rebuild)
        self.wait_until(lambda: self.is_idle() and (until is None or until()))
        self.stop()

    # What came of it --------------------------------------------------------------------------------------

    def take_sent(self) -> Counter[tuple[str, str]]:
        """Returns what was sent since the last call, how often each: by event and endpoint."""
        sent, self.receivers.sent = self.receivers.sent, []
        return Counter((one.event_id, one.endpoint_id) for one in sent)

    def was_sent(self, delivery: Delivery) -> bool:
        """Whether a request for it was made since the last `take_sent`."""
        return any(one.event_id == delivery.event_id for one in self.receivers.sent)

    def wait_for_barriers(self) -> None:
        """Waits until every shard has written what it knows now."""
        engines = [runtime.engine for runtime in self.deliver_flow.runtimes.values()]
        self.wait_until(
            lambda: all(
                engine._barrier._last is not None
                and engine._barrier._last.deliveries_offset == engine.state.next_offset
                and engine._barrier._last.published_sequence == engine.state.sequence
                for engine in engines
            )
        )

    def transitions(self) -> dict[str, list[tuple[TransitionKey, Transition]]]:
        """Returns every transition, by delivery."""
        found: dict[str, list[tuple[TransitionKey, Transition]]] = defaultdict(list)
        for key, value in self._records(topics.TRANSITIONS.name):
            decoded = TRANSITION_KEY.decode(key)
            found[decoded.delivery_id].append((decoded, TRANSITION.decode(value)))
        return found

    def record_count(self, topic: str) -> int:
        """Returns how many records a topic has, without reading them."""
        return sum(self.log.end(TopicPartition(topic, shard)) for shard in range(SHARDS))

    def dead_letters(self) -> Counter[str]:
        """Returns how many dead letters each name has."""
        return Counter(DEAD_LETTER_KEY.decode(key).name for key, _ in self._records(topics.DEAD_LETTERS.name))

    def _records(self, topic: str) -> list[tuple[bytes, bytes]]:
        found = []
        for shard in range(SHARDS):
            of = TopicPartition(topic, shard)
            reader = self.log.reader({of: self.log.start(of)})
            while records := reader.poll(of, 10_000):
                found += [(record.key or b"", record.value or b"") for record in records]
        return found


def names(deliveries: Sequence[Delivery]) -> Counter[tuple[str, str]]:
    """Returns what the receivers call them."""
    return Counter((one.event_id, one.endpoint_id) for one in deliveries)
