"""What the API is built from: ports and values, all made by the composition root."""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from dataflows.connectors.delivery_log.port import DeliveryLog
from dataflows.connectors.idempotency_store import IdempotencyStore
from dataflows.connectors.key_ring import KeyRing
from dataflows.connectors.log.port import Log
from dataflows.connectors.sender.port import Sender
from dataflows.connectors.table_view import TableView
from schemas.endpoint import DisabledReport, Endpoint
from schemas.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiDeps:
    """Ports and values of one API process.

    Attributes:
        endpoints: view of `endpoints`; may be shared with other threads, the API catches it up by itself.
        endpoint_status: view of `endpoint_status`, or None where nobody reports.
        idempotency: used by the event loop's thread only; whoever opened it closes it.
        admin_key: the operator's bearer key; never empty.
        clock_ms: milliseconds UTC.
        entropy: that many random bytes, fit for secrets.
        readiness: one word for each reason why the process is not ready; called on the event loop, quickly.
        wall_ms: the wall clock, for what is signed; `clock_ms` where there is only one.
        has_room: whether the disk takes more; while it does not, everything that writes is refused.
        probe_sender: sends verifications, nobody else's; None where a process has no way out.
        record_group: the group that fills the delivery log; how far it is says how complete reads are.
        registry: what `/metrics` prints; other parts of the process may count in it too.
    """

    log: Log
    endpoints: TableView[Endpoint]
    delivery_log: DeliveryLog
    key_ring: KeyRing
    idempotency: IdempotencyStore
    admin_key: str
    settings: Settings
    clock_ms: Callable[[], int]
    entropy: Callable[[int], bytes]
    readiness: Callable[[], list[str]]
    registry: CollectorRegistry
    wall_ms: Callable[[], int] | None = None
    has_room: Callable[[], bool] = lambda: True
    probe_sender: Sender | None = None
    record_group: str = "record"
    endpoint_status: TableView[DisabledReport] | None = None
