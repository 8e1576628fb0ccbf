"""The index: a history arranged once, in linear time, so that every rule is a walk.

Rules take the index and nothing else: the simulator gives them histories that never were a file.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator

from msgspec import Struct, field

from deploy.checker.endpoint_life import EndpointLife, read_life
from deploy.checker.flow import Flow, pair_up
from deploy.checker.history import (
    Action,
    Arrival,
    Control,
    EndpointKnown,
    Publish,
    Result,
    Run,
)
from deploy.checker.host_time import NS_PER_MS, HostTime
from deploy.checker.outages import Outages
from deploy.checker.sorted_history import SortedHistory
from operators.matching import matches
from schemas.ids import event_id_from_key


class EventKnown(Struct):
    """What the publisher knows of one event.

    Attributes:
        publishes: every call that named it, in order of time; never empty.
    """

    event_id: str
    publishes: list[Publish] = field(default_factory=list)

    @property
    def accepted(self) -> Publish | None:
        """The first call that was answered with success."""
        return next((publish for publish in self.publishes if publish.result is Result.OK), None)

    @property
    def is_possible(self) -> bool:
        """Whether one of the calls may have happened."""
        return any(publish.result is not Result.FAIL for publish in self.publishes)


class Index:
    """A history, arranged.

    Attributes:
        lives: by endpoint id, with the control calls.
        events: by event id; a publish without answer is known by the id that its key names.
        unnamed: by tenant, how many unsure publishes without key: their events may appear under any id.
        flows: by (event id, endpoint id), paired.
        astray: arrivals at a path that no endpoint has.
        ended_at_ns: when the last source was closed.
    """

    def __init__(self, run: Run, history: SortedHistory) -> None:
        self.run = run
        self.history = history
        self.ended_at_ns = max((end.at_ns for end in history.ends), default=run.started_at_ns)
        self.host_time = HostTime(run, history.faults, self.ended_at_ns)
        self.outages = Outages(run, history.faults)
        self.replayed_at_ns = {
            control.replay_id: control.invoked_at_ns
            for control in reversed(history.controls)
            if control.action is Action.REPLAY and control.result is not Result.FAIL
        }
        self.by_path: dict[str, EndpointKnown] = {known.path: known for known in history.endpoints}
        self.astray: list[Arrival] = []
        self.flows: dict[tuple[str, str], Flow] = {}
        self.arrivals_at: dict[str, list[Arrival]] = defaultdict(list)
        self.events: dict[str, EventKnown] = {}
        self.unnamed: Counter[str] = Counter()
        self._take_flows()
        self._take_events()
        self.lives = dict(self._lives())
        self._by_type: dict[tuple[str, str], list[EndpointLife]] = {}
        self._lives_of: dict[str, list[EndpointLife]] = defaultdict(list)
        for life in self.lives.values():
            self._lives_of[life.known.tenant_id].append(life)
        for flow in self.flows.values():
            pair_up(flow, run, self.host_time, self.outages, self.replayed_at_ns)

    def delays_ms(self, endpoint_id: str) -> tuple[int, ...]:
        """Returns the retry schedule of an endpoint."""
        life = self.lives.get(endpoint_id)
        if life is None or life.known.delays_ms is None:
            return self.run.delays_ms
        return life.known.delays_ms

    def window_ms(self, endpoint_id: str) -> int:
        """Returns the window of an endpoint."""
        life = self.lives.get(endpoint_id)
        if life is None or life.known.window_ms is None:
            return self.run.window_ms
        return life.known.window_ms

    def subscribers(self, tenant_id: str, event_type: str) -> list[EndpointLife]:
        """Returns the endpoints of a tenant whose patterns match a type, whenever they lived."""
        found = self._by_type.get((tenant_id, event_type))
        if found is None:
            lives = self._lives_of[tenant_id]
            found = [life for life in lives if matches(life.known.patterns, event_type)]
            self._by_type[tenant_id, event_type] = found
        return found

    def _flow(self, event_id: str, endpoint_id: str) -> Flow:
        flow = self.flows.get((event_id, endpoint_id))
        if flow is None:
            flow = self.flows[event_id, endpoint_id] = Flow(event_id, endpoint_id)
        return flow

    def _take_flows(self) -> None:
        for arrival in self.history.arrivals:
            known = self.by_path.get(arrival.path)
            if known is None:
                self.astray.append(arrival)
                continue
            self.arrivals_at[known.endpoint_id].append(arrival)
            self._flow(arrival.webhook_id, known.endpoint_id).arrivals.append(arrival)
        for transition in self.history.transitions:
            self._flow(transition.event_id, transition.endpoint_id).transitions.append(transition)
        for delivery in self.history.deliveries:
            self._flow(delivery.event_id, delivery.endpoint_id).deliveries.append(delivery)
        for letter in self.history.dead_letters:
            self._flow(letter.event_id, letter.endpoint_id).dead_letters.append(letter)

    def _take_events(self) -> None:
        for publish in self.history.publishes:
            event_id = publish.event_id
            if not event_id and publish.key:
                event_id = event_id_from_key(publish.tenant_id, publish.key)
            if not event_id:
                if publish.result is Result.INFO:
                    self.unnamed[publish.tenant_id] += 1
                continue
            known = self.events.get(event_id)
            if known is None:
                known = self.events[event_id] = EventKnown(event_id)
            known.publishes.append(publish)

    def _lives(self) -> Iterator[tuple[str, EndpointLife]]:
        controls: dict[str, list[Control]] = defaultdict(list)
        for control in self.history.controls:
            controls[control.endpoint_id].append(control)
        for known in self.history.endpoints:
            gone, pauses = [], []
            for arrival in self.arrivals_at[known.endpoint_id]:
                at_ns = arrival.answered_at_ns
                if at_ns is None:
                    continue
                if arrival.status == 410 and arrival.is_answer_written:
                    gone.append(at_ns)
                if arrival.retry_after_ms:
                    pauses.append((at_ns, at_ns + arrival.retry_after_ms * NS_PER_MS))
            own = controls[known.endpoint_id]
            slack_ns = self.run.control_slack_ms * NS_PER_MS
            yield known.endpoint_id, read_life(known, own, gone, pauses, slack_ns)
