"""Puts the API together: ports in, an application out. The only file that knows all routes and actions."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from api.actions.ask_receiver import AskReceiver
from api.actions.change_endpoint import ChangeEndpoints
from api.actions.command_delivery import CommandDeliveries
from api.actions.create_endpoint import CreateEndpoints
from api.actions.endpoint_actions import EndpointActions
from api.actions.endpoint_rules import EndpointRules
from api.actions.endpoint_writer import EndpointWriter
from api.actions.list_deliveries import ListHistory
from api.actions.pending_verifications import PendingVerifications
from api.actions.publish_event import PublishEvents
from api.actions.read_history import ReadHistory
from api.actions.resend_delivery import ResendDeliveries
from api.actions.rotate_secret import RotateSecrets
from api.actions.verification_limits import VerificationLimits
from api.actions.verify_endpoint import VerifyEndpoints
from api.auth import Authenticator
from api.bodies import BODY_BYTES_MAX
from api.deps import ApiDeps
from api.endpoint_view import EndpointView
from api.entropy_pool import EntropyPool
from api.front import Front, Handler
from api.idempotency import IdempotencyGate
from api.log_progress import ProgressReader
from api.log_writes import LogWrites
from api.metrics import ApiMetrics
from api.probes import Probes
from api.read_pool import ReadPool
from api.recent_events import RecentEvents
from api.routes.deliveries import DeliveryRoutes
from api.routes.endpoints import EndpointRoutes
from api.routes.events import EventRoutes
from api.routes.operations import OperationRoutes
from dataflows.connectors.delivery_log.recording import RECORDED_TOPICS
from schemas.topics import DELIVERIES, EVENTS

_PROCESS_ID_BYTES: Final = 6


def build_app(deps: ApiDeps) -> web.Application:
    """Returns the application; nothing runs before it is started."""
    settings = deps.settings
    timeout_ms = settings.api.append_timeout_ms
    metrics = ApiMetrics(deps.registry)
    view = EndpointView(deps.endpoints, deps.endpoint_status)
    recent = RecentEvents()
    writes = LogWrites(deps.log, timeout_ms, deps.has_room)
    pool = ReadPool()
    publishes = PublishEvents(
        writes,
        view,
        recent,
        metrics,
        partitions=deps.log.partition_count(EVENTS.name),
        clock_ms=deps.clock_ms,
        entropy=EntropyPool(deps.entropy).take,
    )
    recorded = [topic.name for topic in RECORDED_TOPICS]
    progress = ProgressReader(deps.log, deps.record_group, recorded, deps.clock_ms)
    history = ReadHistory(
        deps.delivery_log, pool, recent, progress, deps.clock_ms, lambda one: view.peek(one) is not None
    )
    front = Front(Authenticator(deps.admin_key), metrics, deps.entropy(_PROCESS_ID_BYTES).hex())

    @web.middleware
    async def through_the_front(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await front.handle(request, handler)

    app = web.Application(middlewares=[through_the_front], client_max_size=BODY_BYTES_MAX)
    app.add_routes(OperationRoutes(deps.readiness, deps.registry).table())
    actions, pending = _endpoint_actions(deps, writes, view, publishes)
    app.add_routes(EndpointRoutes(actions, view).table())
    # A repeat waits as long as the first one may wait for the log.
    gate = IdempotencyGate(deps.idempotency, clock_ms=deps.clock_ms, wait_ms=timeout_ms)
    lists = ListHistory(deps.delivery_log, pool, progress)
    app.add_routes(EventRoutes(publishes, gate, history, lists, metrics).table())
    commands = _delivery_commands(deps, writes, view, history, gate)
    app.add_routes(DeliveryRoutes(history, lists, commands).table())

    async def background(_: web.Application) -> AsyncIterator[None]:
        pumping = asyncio.create_task(view.pump())
        resuming = asyncio.create_task(pending.resume())
        yield
        for task in (pumping, resuming):
            task.cancel()
        await asyncio.gather(pumping, resuming, return_exceptions=True)
        await pending.close()
        pool.close()

    app.cleanup_ctx.append(background)
    return app


def _delivery_commands(
    deps: ApiDeps, writes: LogWrites, view: EndpointView, history: ReadHistory, gate: IdempotencyGate
) -> CommandDeliveries:
    shards = deps.log.partition_count(DELIVERIES.name)
    resends = ResendDeliveries(
        history,
        view,
        writes,
        matched_at=lambda: deps.endpoints.position,
        shards=shards,
        clock_ms=deps.clock_ms,
        entropy=deps.entropy,
    )
    return CommandDeliveries(history, resends, writes, gate, shards=shards)


def _endpoint_actions(
    deps: ApiDeps, writes: LogWrites, view: EndpointView, publishes: PublishEvents
) -> tuple[EndpointActions, PendingVerifications]:
    settings, clock_ms, key_ring = deps.settings, deps.clock_ms, deps.key_ring
    writer = EndpointWriter(writes, view, settings.api.append_timeout_ms, clock_ms)
    rules = EndpointRules(settings.egress, deps.entropy)
    asks = AskReceiver(
        None if deps.probe_sender is None else Probes(deps.probe_sender),
        VerificationLimits(settings.api, clock_ms),
        key_ring,
        user_agent=settings.egress.user_agent,
        connect_timeout_ms=settings.egress.connect_timeout_ms,
        clock_ms=clock_ms,
        wall_ms=deps.wall_ms or clock_ms,
        entropy=deps.entropy,
    )
    verifies = VerifyEndpoints(asks, writer, clock_ms)
    pending = PendingVerifications(asks, writer, view, settings.api.verification_delays_ms, clock_ms)
    actions = EndpointActions(
        writer=writer,
        creates=CreateEndpoints(writer, verifies, pending, rules, key_ring, clock_ms),
        changes=ChangeEndpoints(writer, verifies, pending, rules),
        rotates=RotateSecrets(writer, rules, key_ring, clock_ms),
        verifies=verifies,
        publishes=publishes,
        clock_ms=clock_ms,
    )
    return actions, pending
