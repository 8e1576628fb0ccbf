"""Opens what an embedded process is made of, in one data directory, and closes it again.

The directory's lock comes first: everything else lies behind it. The delivery log opens beside the rest,
because loading ClickHouse is half of the time to readiness and needs nothing of the others.

Everything that was opened is closed in reverse order, also when a later part refuses. Only the shard stores
are not here: they belong to the `deliver` flow, which opens them when it reconciles and closes them after
its last barrier.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from msgspec.structs import replace
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from api.deps import ApiDeps
from dataflows.connectors.data_directory import (
    MASTER_KEY_FILE,
    SHARDS_DIRECTORY,
    DataDirectory,
    admin_key,
    shard_directory,
    sync_directory,
)
from dataflows.connectors.delivery_log.port import DeliveryLog
from dataflows.connectors.idempotency_store import IdempotencyStore
from dataflows.connectors.key_ring import KeyRing
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from dataflows.connectors.sender.port import Sender
from dataflows.connectors.table_view import TableView
from deploy.process.descriptors import DescriptorPlan
from deploy.process.log_identity import LOG_DIRECTORY, keep_log_id, refuse_lost_log
from deploy.process.makers import REAL, Makers
from deploy.process.schedule_clock import ScheduleClock
from schemas.endpoint import DisabledReport, Endpoint
from schemas.errors import StoreUnavailable
from schemas.settings import Settings
from schemas.topics import ALL_TOPICS, ENDPOINT_STATUS, ENDPOINTS, Spread
from schemas.wire import records

SENDER_CLOSE_S: Final = 1.0
"""`deliver` has waited for what is in flight before; this is for the connections."""

PROBE_IDLE_MAX: Final = 8
"""A receiver that was just verified gets its events from the other sender."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that is open.

    Attributes:
        descriptors: who may have how many files and connections.
        admin_key: the operator's bearer key.
        probe_sender: sends verifications, on connections of its own.
        is_key_new: whether it was made just now, and nobody has seen it yet.
    """

    settings: Settings
    descriptors: DescriptorPlan
    directory: DataDirectory
    log: LocalLog
    endpoints: TableView[Endpoint]
    endpoint_status: TableView[DisabledReport]
    key_ring: KeyRing
    delivery_log: DeliveryLog
    idempotency: IdempotencyStore
    sender: Sender
    probe_sender: Sender
    admin_key: str
    is_key_new: bool
    makers: Makers = REAL

    @property
    def slots(self) -> int:
        """Requests in flight at once."""
        return self.descriptors.slot_plan.slots

    def shard_directory(self, shard: int) -> Path:
        """Returns where a shard's store lives."""
        return shard_directory(self.directory.path, shard)

    def api_deps(
        self, clock: ScheduleClock, readiness: Callable[[], list[str]], has_room: Callable[[], bool]
    ) -> ApiDeps:
        """Returns what the API is built from."""
        registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        return ApiDeps(
            log=self.log,
            endpoints=self.endpoints,
            endpoint_status=self.endpoint_status,
            delivery_log=self.delivery_log,
            key_ring=self.key_ring,
            idempotency=self.idempotency,
            admin_key=self.admin_key,
            settings=self.settings,
            clock_ms=clock.now_ms,
            wall_ms=clock.wall_ms,
            entropy=os.urandom,
            readiness=readiness,
            has_room=has_room,
            registry=registry,
            probe_sender=self.probe_sender,
        )


def open_parts(
    settings: Settings,
    descriptors: DescriptorPlan,
    clock_ms: Callable[[], int],
    closing: ExitStack,
    makers: Makers = REAL,
) -> Parts:
    """Opens everything.

    Args:
        descriptors: who may have how many files and connections.
        clock_ms: milliseconds UTC.
        closing: closes what was opened, in reverse order.
        makers: of the ports.

    Raises:
        HooktideError: what cannot be opened, in one sentence; what was opened before is in `closing`.
    """
    directory = DataDirectory.open(
        Path(settings.data),
        shards=settings.log.shards,
        events_partitions=settings.log.events_partitions,
        now_ms=clock_ms(),
    )
    closing.callback(directory.close)
    # Loading ClickHouse is half of the start, and needs nothing of what is opened meanwhile.
    with ThreadPoolExecutor(1, "open") as beside:
        loading = beside.submit(makers.open_delivery_log, directory.path / "delivery_log")
        closing.callback(_close_loaded, loading)
        refuse_lost_log(directory.path)
        log = makers.open_log(
            directory.path / LOG_DIRECTORY,
            partitions=partition_counts(settings),
            clock_ms=clock_ms,
            linger_ms=settings.log.linger_ms,
        )
        closing.callback(log.close)
        keep_log_id(directory.path, log.cluster_id)
        endpoints = _open_view(log, ENDPOINTS.name, records.ENDPOINT.decode, closing)
        endpoint_status = _open_view(log, ENDPOINT_STATUS.name, records.DISABLED_REPORT.decode, closing)
        key_ring = KeyRing.open(settings.master_key, directory.path / MASTER_KEY_FILE)
        key_ring.check_known({secret.key_id for _, one in endpoints.items() for secret in one.secrets})
        key, is_key_new = admin_key(directory.path)
        idempotency = IdempotencyStore(
            directory.path / "idempotency", kept_hours=settings.api.idempotency_hours
        )
        closing.callback(idempotency.close)
        sender, probe_sender = _open_senders(settings, descriptors, closing, makers)
        _keep_names(directory.path)
    return Parts(
        settings=settings,
        descriptors=descriptors,
        directory=directory,
        log=log,
        endpoints=endpoints,
        endpoint_status=endpoint_status,
        key_ring=key_ring,
        delivery_log=loading.result(),
        idempotency=idempotency,
        sender=sender,
        probe_sender=probe_sender,
        admin_key=key,
        is_key_new=is_key_new,
        makers=makers,
    )


def partition_counts(settings: Settings) -> dict[str, int]:
    """Returns how many partitions each topic has."""
    counts = {
        Spread.TENANTS: settings.log.events_partitions,
        Spread.SHARDS: settings.log.shards,
        Spread.ONE: 1,
    }
    return {topic.name: counts[topic.spread] for topic in ALL_TOPICS}


def _open_senders(
    settings: Settings, descriptors: DescriptorPlan, closing: ExitStack, makers: Makers
) -> tuple[Sender, Sender]:
    """Returns the sender of deliveries and that of verifications; the second is nobody's to replace."""
    egress = EgressPolicy(
        allow_private=settings.egress.allow_private_networks, idle_max=descriptors.slot_plan.slots
    )
    sender = makers.open_sender(egress)
    closing.callback(sender.close, SENDER_CLOSE_S)
    probe_sender = open_aiohttp_sender(replace(egress, idle_max=PROBE_IDLE_MAX, idle_tls_max=PROBE_IDLE_MAX))
    closing.callback(probe_sender.close, SENDER_CLOSE_S)
    return sender, probe_sender


def _keep_names(data: Path) -> None:
    """Makes the names in the data directory durable: a power cut could take a name that nobody synced.

    Raises:
        StoreUnavailable: the file system says no.
    """
    try:
        (data / SHARDS_DIRECTORY).mkdir(exist_ok=True)
        sync_directory(data)
    except OSError as error:
        raise StoreUnavailable(f"the data directory {data} cannot be synced: {error}") from error


def _close_loaded(loading: Future[DeliveryLog]) -> None:
    if loading.exception() is None:
        loading.result().close()


def _open_view(log: LocalLog, topic: str, decode: Callable[[bytes], T], closing: ExitStack) -> TableView[T]:
    """Returns a view of everything that the topic holds now."""
    view = TableView(log, topic, decode)
    closing.callback(view.close)
    while view.catch_up():
        pass
    return view
