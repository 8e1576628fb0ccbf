"""Who gets an event: all endpoints, arranged so that finding the matching ones costs no more than them.

A type of n segments matches n + 1 patterns (see `operators.matching`), so a tenant's table goes from pattern
to subscribers, and an event asks it n + 1 times. Other tenants' endpoints are never looked at. Most tenants
have one or two
endpoints, and a table for those would cost ten times what it holds: they are a plain tuple, scanned, until
their patterns together are more than `SCANNED_PATTERNS_MAX`.

The index keeps of an endpoint only what matching needs (no URL, secrets or headers), and shares equal strings
and pattern lists: about 400 bytes an endpoint where every tenant has one, under 300 in larger tenants.

Three rules about time. They compare times that stand in records, never a clock, so that fanning out again
after a rewind matches again what it matched:

- an endpoint gets no history: only events recorded at or after its creation, less `SLACK_MS` for the
  difference of clocks (the writer of endpoints stamps its creation, the log stamps events). An update does
  not count, or a lagging `route` would drop events for an endpoint whose description was changed;
- a disabled endpoint matches for 72 h more (its deliveries are held), then no longer, and those are counted;
- a paused one matches.

This object is changed in place by one owner; `match` may be called by that owner's thread only.
"""

import sys
from collections.abc import Iterable

from msgspec import Struct

from operators.matching import patterns_of
from schemas.endpoint import HOUR_MS, MINUTE_MS, DisabledReport, Endpoint, EndpointStatus

SLACK_MS = 10 * MINUTE_MS
DISABLED_MATCH_MS = 72 * HOUR_MS
SCANNED_PATTERNS_MAX = 16
_SHARED_PATTERNS_MAX = 10_000
_FOREVER_MS = sys.maxsize


class Subscriber(Struct, frozen=True, gc=False):
    """What matching knows of an endpoint.

    Attributes:
        since_ms: events recorded before do not match.
        until_ms: events recorded at or after do not match: it was disabled 72 h before.
    """

    endpoint_id: str
    tenant_id: str
    patterns: tuple[str, ...]
    api_version: str
    generation: int
    since_ms: int
    until_ms: int = _FOREVER_MS


class Matches(Struct, frozen=True, gc=False):
    """Who gets an event.

    Attributes:
        disabled_count: how many subscribed, but have been disabled for more than 72 h.
    """

    subscribers: list[Subscriber]
    disabled_count: int


_Table = dict[str, dict[str, Subscriber]]
_NOBODY = Matches([], 0)


class EndpointIndex:
    """All endpoints, found by tenant and event type."""

    __slots__ = ("_by_id", "_by_tenant", "_reports", "_shared_patterns")

    def __init__(self) -> None:
        self._by_id: dict[str, Subscriber] = {}
        self._by_tenant: dict[str, tuple[Subscriber, ...] | _Table] = {}
        self._reports: dict[str, DisabledReport] = {}
        self._shared_patterns: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, endpoint_id: str) -> Subscriber | None:
        """Returns what is known of an endpoint."""
        return self._by_id.get(endpoint_id)

    def upsert(self, endpoint: Endpoint) -> None:
        """Takes in a record of `endpoints`."""
        known = self._by_id.get(endpoint.id)
        until_ms = _FOREVER_MS
        if endpoint.status is EndpointStatus.DISABLED:
            until_ms = (endpoint.disabled_at_ms or endpoint.updated_at_ms) + DISABLED_MATCH_MS
        if known is not None:
            if until_ms != _FOREVER_MS and known.generation == endpoint.generation:
                until_ms = min(until_ms, known.until_ms)  # changed while disabled: the 72 h do not begin anew
            self._unlist(known)
        subscriber = Subscriber(
            endpoint_id=endpoint.id if known is None else known.endpoint_id,
            tenant_id=sys.intern(endpoint.tenant_id),
            patterns=self._share(endpoint.event_types),
            api_version=sys.intern(endpoint.api_version),
            generation=endpoint.generation,
            since_ms=endpoint.created_at_ms - SLACK_MS,
            until_ms=min(until_ms, self._reported_until_ms(endpoint.id, endpoint.generation)),
        )
        self._by_id[subscriber.endpoint_id] = subscriber
        self._list(subscriber)

    def remove(self, endpoint_id: str) -> None:
        """Takes in the tombstone of an endpoint; an unknown one is nothing to remove."""
        known = self._by_id.pop(endpoint_id, None)
        self._reports.pop(endpoint_id, None)
        if known is not None:
            self._unlist(known)

    def report_disabled(self, report: DisabledReport) -> None:
        """Takes in a record of `endpoint_status`; it counts for its generation, whichever comes first."""
        self._reports[report.endpoint_id] = report
        known = self._by_id.get(report.endpoint_id)
        if known is None:
            return
        until_ms = min(known.until_ms, self._reported_until_ms(known.endpoint_id, known.generation))
        if until_ms != known.until_ms:
            self._unlist(known)
            disabled = Subscriber(
                known.endpoint_id,
                known.tenant_id,
                known.patterns,
                known.api_version,
                known.generation,
                known.since_ms,
                until_ms,
            )
            self._by_id[disabled.endpoint_id] = disabled
            self._list(disabled)

    def match(self, tenant_id: str, event_type: str, recorded_at_ms: int) -> Matches:
        """Returns the endpoints of the tenant that subscribed to the type at the event's record time."""
        listed = self._by_tenant.get(tenant_id)
        if listed is None:
            return _NOBODY
        patterns = patterns_of(event_type)
        if isinstance(listed, tuple):
            return _in_time([one for one in listed if _has_any(one.patterns, patterns)], recorded_at_ms)
        found: dict[str, Subscriber] = {}
        for pattern in patterns:
            subscribers = listed.get(pattern)
            if subscribers is not None:
                found.update(subscribers)
        return _in_time(found.values(), recorded_at_ms)

    def named(self, tenant_id: str, endpoint_ids: Iterable[str], recorded_at_ms: int) -> Matches:
        """Returns those of the named endpoints that are the tenant's, whatever they subscribed to."""
        found = [self._by_id.get(endpoint_id) for endpoint_id in dict.fromkeys(endpoint_ids)]
        own = [one for one in found if one is not None and one.tenant_id == tenant_id]
        return _in_time(own, recorded_at_ms)

    def _reported_until_ms(self, endpoint_id: str, generation: int) -> int:
        report = self._reports.get(endpoint_id)
        if report is None or report.generation < generation:
            return _FOREVER_MS
        return report.disabled_at_ms + DISABLED_MATCH_MS

    def _share(self, patterns: tuple[str, ...]) -> tuple[str, ...]:
        shared = self._shared_patterns.get(patterns)
        if shared is None:
            if len(self._shared_patterns) >= _SHARED_PATTERNS_MAX:  # only sharing is lost
                self._shared_patterns.clear()
            # A pattern that stands in the list twice counts once.
            shared = tuple(dict.fromkeys([sys.intern(pattern) for pattern in patterns]))
            self._shared_patterns[patterns] = shared
        return shared

    def _list(self, subscriber: Subscriber) -> None:
        listed = self._by_tenant.get(subscriber.tenant_id, ())
        if isinstance(listed, tuple):
            listed = (*listed, subscriber)
            if sum([len(one.patterns) for one in listed]) > SCANNED_PATTERNS_MAX:
                self._by_tenant[subscriber.tenant_id] = _table_of(listed)
            else:
                self._by_tenant[subscriber.tenant_id] = listed
        else:
            _add(listed, subscriber)

    def _unlist(self, subscriber: Subscriber) -> None:
        listed = self._by_tenant[subscriber.tenant_id]
        if isinstance(listed, tuple):
            left: tuple[Subscriber, ...] | _Table = tuple([one for one in listed if one is not subscriber])
            self._by_tenant[subscriber.tenant_id] = left
        else:
            for pattern in subscriber.patterns:
                subscribers = listed[pattern]
                del subscribers[subscriber.endpoint_id]
                if not subscribers:
                    del listed[pattern]
            left = listed
        if not left:
            del self._by_tenant[subscriber.tenant_id]


def _has_any(subscribed: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    for pattern in patterns:  # noqa: SIM110 - as in `operators.matching`, whose `matches` this is, unrolled
        if pattern in subscribed:
            return True
    return False


def _table_of(subscribers: Iterable[Subscriber]) -> _Table:
    table: _Table = {}
    for subscriber in subscribers:
        _add(table, subscriber)
    return table


def _add(table: _Table, subscriber: Subscriber) -> None:
    for pattern in subscriber.patterns:
        table.setdefault(pattern, {})[subscriber.endpoint_id] = subscriber


def _in_time(found: Iterable[Subscriber], recorded_at_ms: int) -> Matches:
    enabled: list[Subscriber] = []
    disabled_count = 0
    for one in found:
        if recorded_at_ms >= one.until_ms:
            disabled_count += recorded_at_ms >= one.since_ms
        elif recorded_at_ms >= one.since_ms:
            enabled.append(one)
    return Matches(enabled, disabled_count)
