"""What the API counts about itself. Labels are routes, methods and status codes: closed lists, never ids."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
UNKNOWN_ROUTE: Final = "unknown"


class ApiMetrics:
    """The API's counters in one registry. Children are looked up once, because `labels()` costs 2 us."""

    def __init__(self, registry: CollectorRegistry) -> None:
        ingested = Counter(
            "webhook_events_ingested",
            "Publishes by what came of them: accepted, replayed (same answer again), unsure (log silent).",
            ("outcome",),
            registry=registry,
        )
        self.accepted = ingested.labels("accepted")
        self.replayed = ingested.labels("replayed")
        self.unsure = ingested.labels("unsure")
        self._requests = Counter(
            "webhook_api_requests",
            "Requests by route, method and status.",
            ("route", "method", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "webhook_api_request_seconds",
            "Time from the request's head to its answer.",
            ("route",),
            registry=registry,
            buckets=_SECONDS,
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts one request; `route` is a pattern of ours, `method` is cut to the known ones."""
        key = (route, method, status)
        children = self._children.get(key)
        if children is None:
            shown = method if method in _METHODS else "other"
            children = self._requests.labels(route, shown, str(status)), self._seconds.labels(route)
            if shown == method:
                self._children[key] = children
        counter, histogram = children
        counter.inc()
        histogram.observe(seconds)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
