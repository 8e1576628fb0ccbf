"""The embedded mode: everything in one process, over one data directory. The composition root of `up`.

The main thread runs the API's event loop; the flows and the sender have threads of their own. The API
answers as soon as it can, and says `starting` at `/readyz` until every flow has begun.

The process ends in one way, whatever the cause: the API stops taking requests and finishes the running ones,
the flows end in the order of the data, the parts are closed in the reverse order of their opening. A part
that died takes the process with it, on purpose: a process that looks alive and does half of its work is worse
than one that a supervisor can start again, and starting is one procedure that heals everything.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import uvloop
from aiohttp import web

from api.app import build_app
from api.server import start_server
from dataflows.engine.watchdog import Watchdog
from deploy.process.api_url_file import leave_url
from deploy.process.clock import Clock, newest_record_ms
from deploy.process.descriptors import DescriptorPlan, plan_descriptors
from deploy.process.disk_guard import DiskGuard, blamed_on_disk
from deploy.process.embedded_flows import EmbeddedFlows
from deploy.process.embedded_parts import Parts, open_parts
from deploy.process.ending import Ending
from deploy.process.exit_codes import ExitCode, code_of_death, code_of_start
from deploy.process.greeting import Ready
from deploy.process.heartbeat import Heartbeat
from deploy.process.log_care import LogCare
from deploy.process.makers import REAL, Makers
from deploy.process.schedule_clock import ScheduleClock
from deploy.process.tune import freeze_heap, raise_descriptor_limit, tune_allocator
from schemas.errors import HooktideError, Refused, Unavailable
from schemas.settings import Settings

SILENT_S_MAX: Final = 30.0
"""Longer than a chdb insert or a slow fsync may take; then the process ends and is started again."""
BEAT_S: Final = 1.0
_LOOK_S: Final = 0.02

_log = structlog.get_logger("hooktide.process")


class Audience(NamedTuple):
    """Who is told what the process does, in the words of `up` or of a test.

    Attributes:
        on_ready: called once, when all flows have begun.
        on_stopping: called once, before what is in flight is waited for.
        on_failure: called with one sentence when a part has died.
        on_progress: called about once a second while the start takes long, with how far it is.
    """

    on_ready: Callable[[Ready], None]
    on_stopping: Callable[[], None]
    on_failure: Callable[[str], None]
    on_progress: Callable[[str], None] = lambda _: None


def run_embedded(
    settings: Settings, audience: Audience, *, rebuild: bool = False, makers: Makers = REAL
) -> ExitCode:
    """Runs everything until a signal, or the death of a part. On the main thread.

    Args:
        audience: told when it is ready, when it stops, and why it failed.
        rebuild: takes shards over from a lost store.
        makers: of the ports.

    Returns:
        The process's exit code. Threads may still run when a flow did not end: leave with `os._exit`.

    Raises:
        HooktideError: it cannot start, in one sentence; everything is closed again.
    """
    began_s = time.monotonic()
    ending = Ending()
    ending.listen()
    refuse_taken_port(settings.api.host, settings.api.port)
    tune_allocator()
    plan = plan_descriptors(settings.egress.slots, raise_descriptor_limit(), settings.log.shards)
    schedule_clock = ScheduleClock.resume(Path(settings.data))
    with ExitStack() as closing:
        try:
            parts = open_parts(settings, plan, schedule_clock.now_ms, closing, makers)
        except Unavailable as error:
            raise blamed_on_disk(error, Path(settings.data), settings.disk.free_bytes_min) from error
        newest_ms = newest_record_ms(parts.log)
        clock = Clock(schedule_clock, newest_ms)
        objection = clock.objection()
        if objection is not None:
            raise Refused(objection)
        schedule_clock.go_on_from(newest_ms)
        schedule_clock.start(parts.directory.path)
        closing.callback(schedule_clock.close)
        process = EmbeddedProcess(parts, schedule_clock, clock, ending, plan, rebuild=rebuild)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            can_close = runner.run(process.run(audience, began_s))
        to_close = closing.pop_all()
    if can_close:  # else somebody still uses them: closing would crash what a kill leaves whole
        _close(to_close, ending)
    return _explained(ending, audience.on_failure, is_ready=process.is_ready, can_close=can_close)


class EmbeddedProcess:
    """The running process: its API, its flows, its watchdog.

    Args:
        schedule_clock: what everything but signatures goes by.
        clock: judges the wall clock.
        ending: says when to end.
        plan: of the file descriptors.
        rebuild: takes shards over from a lost store.
    """

    def __init__(
        self,
        parts: Parts,
        schedule_clock: ScheduleClock,
        clock: Clock,
        ending: Ending,
        plan: DescriptorPlan,
        *,
        rebuild: bool,
    ) -> None:
        self.is_ready = False
        self._parts = parts
        self._schedule_clock = schedule_clock
        self._clock_ms = schedule_clock.now_ms
        self._clock = clock
        self._ending = ending
        self._plan = plan
        self._watchdog = Watchdog(self._end_stalled, silent_s_max=SILENT_S_MAX)
        self._guard = DiskGuard(parts.directory.path, parts.settings.disk.free_bytes_min, ending.fail)
        self._flows = EmbeddedFlows(
            parts, schedule_clock, self._guard.take_death, self._watchdog, self._has_room, rebuild=rebuild
        )
        self._log_care = LogCare(parts.log, self._guard.take_death, self._clock_ms, has_room=self._has_room)
        self._clock_complaint: str | None = None

    async def run(self, audience: Audience, began_s: float) -> bool:
        """Serves until the end; returns whether the parts can be closed."""
        settings = self._parts.settings
        app = build_app(self._parts.api_deps(self._schedule_clock, self.readiness, self._has_room))
        try:
            server, port = await start_server(
                app, settings.api.host, settings.api.port, connections_max=self._plan.api_connections_max
            )
        except OSError as error:
            raise Refused(_port_sentence(settings.api.host, settings.api.port, error)) from error
        self._watchdog.start()
        self._flows.start()
        self._log_care.start()
        self._guard.start()
        beating = asyncio.create_task(self._beat())
        starting = asyncio.create_task(self._announce(audience, port, began_s))
        await self._ending.wait()
        starting.cancel()
        audience.on_stopping()
        can_close = await self._stop(server)
        beating.cancel()
        return can_close

    def readiness(self) -> list[str]:
        """Returns one word for each reason why nothing should be sent here now."""
        reasons = []
        if self._ending.has_begun:
            reasons.append("stopping")
        if not self._flows.have_begun:
            words = self._flows.progress.words
            reasons.append(f"starting: {words}" if words else "starting")
        if self._log_care.is_failing:
            reasons.append("log")
        if not self._has_room():
            reasons.append("disk")
        complaint = self._clock.complaint()
        if complaint is not None:
            reasons.append("clock")
        if complaint != self._clock_complaint:
            self._clock_complaint = complaint
            _log.warning("clock_judged", complaint=complaint or "none any more")
        return reasons

    def _end_stalled(self, name: str, silent_s: float) -> None:
        """Ends the process at once: a stalled flow would not take part in a graceful stop."""
        _log.critical("stalled", part=name, silent_s=round(silent_s, 1))
        self._flows.excuse()
        os._exit(ExitCode.STALLED)

    def _has_room(self) -> bool:
        return self._guard.has_room

    async def _announce(self, audience: Audience, port: int, began_s: float) -> None:
        said = ""
        while not self._flows.have_begun:
            words = self._flows.progress.words
            if words != said:
                said = words
                audience.on_progress(words)
            await asyncio.sleep(_LOOK_S)
        freeze_heap()
        host = self._parts.settings.api.host
        self.is_ready = True
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        leave_url(self._parts.directory.path, url)
        audience.on_ready(
            Ready(
                url=url,
                data=str(self._parts.directory.path),
                admin_key=self._parts.admin_key,
                is_key_new=self._parts.is_key_new,
                slot_plan=self._plan.slot_plan,
                started_ms=round((time.monotonic() - began_s) * 1_000),
            )
        )

    async def _beat(self) -> None:
        """Shows the watchdog that the event loop runs."""
        heartbeat = Heartbeat(self._watchdog, "api")
        while True:
            heartbeat.beat()
            await asyncio.sleep(BEAT_S)

    async def _stop(self, server: web.AppRunner) -> bool:
        _log.info("stopping", because=self._ending.failed_part or "asked to")
        await asyncio.to_thread(self._guard.close)
        await server.cleanup()
        can_close = await asyncio.to_thread(self._flows.stop)
        await asyncio.to_thread(self._log_care.close)
        self._watchdog.close()
        return can_close


def refuse_taken_port(host: str, port: int) -> None:
    """Looks before anything is opened; the server itself finds out again.

    Raises:
        Refused: the port is taken, or not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise Refused(_port_sentence(host, port, error)) from error


def _port_sentence(host: str, port: int, error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return f"port {port} on {host} cannot be taken ({reason}): name another with --port, or 0 for a free one"


def _close(closing: ExitStack, ending: Ending) -> None:
    """Closes the parts; what fails now (a full disk) is a failure of this run, and no refusal to start."""
    try:
        closing.close()
    except HooktideError as error:
        ending.fail("closing", error)


def _explained(
    ending: Ending, on_failure: Callable[[str], None], *, is_ready: bool, can_close: bool
) -> ExitCode:
    error = ending.failure
    if error is None:
        return ExitCode.OK if can_close else ExitCode.FAILED
    if isinstance(error, HooktideError):
        on_failure(f"{ending.failed_part} cannot go on: {error}" if is_ready else str(error))
        return code_of_death(error) if is_ready else code_of_start(error)
    on_failure(f"{ending.failed_part} died of {type(error).__name__}: {error}; the lines above say where")
    return ExitCode.FAILED
