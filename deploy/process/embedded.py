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
from typing import Final, NamedTuple

import structlog
import uvloop
from aiohttp import web

from api.app import build_app
from api.server import start_server
from dataflows.engine.watchdog import Watchdog
from deploy.process.api_url_file import leave_url
from deploy.process.clock import Clock, newest_record_ms
from deploy.process.embedded_flows import EmbeddedFlows
from deploy.process.embedded_parts import Parts, open_parts
from deploy.process.ending import Ending
from deploy.process.exit_codes import ExitCode, code_of_death, code_of_start
from deploy.process.greeting import Ready
from deploy.process.heartbeat import Heartbeat
from deploy.process.log_care import LogCare
from deploy.process.tune import SlotPlan, freeze_heap, plan_slots, raise_descriptor_limit, tune_allocator
from schemas.errors import HooktideError, Refused
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
    """

    on_ready: Callable[[Ready], None]
    on_stopping: Callable[[], None]
    on_failure: Callable[[str], None]


def now_ms() -> int:
    """Returns the wall clock, milliseconds UTC."""
    return time.time_ns() // 1_000_000


def run_embedded(settings: Settings, audience: Audience, *, rebuild: bool = False) -> ExitCode:
    """Runs everything until a signal, or the death of a part. On the main thread.

    Args:
        audience: told when it is ready, when it stops, and why it failed.
        rebuild: takes shards over from a lost store.

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
    slot_plan = plan_slots(settings.egress.slots, raise_descriptor_limit())
    with ExitStack() as closing:
        parts = open_parts(settings, slot_plan.slots, now_ms, closing)
        clock = Clock(now_ms, newest_record_ms(parts.log))
        complaint = clock.complaint()
        if complaint is not None:
            raise Refused(complaint)
        process = EmbeddedProcess(parts, clock, ending, slot_plan, rebuild=rebuild)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            can_close = runner.run(process.run(audience, began_s))
        to_close = closing.pop_all()
    if can_close:  # else somebody still uses them: closing would crash what a kill leaves whole
        _close(to_close, ending)
    return _explained(ending, audience.on_failure, is_ready=process.is_ready, can_close=can_close)


class EmbeddedProcess:
    """The running process: its API, its flows, its watchdog.

    Args:
        ending: says when to end.
        slot_plan: for whoever is told that it is ready.
        rebuild: takes shards over from a lost store.
    """

    def __init__(
        self, parts: Parts, clock: Clock, ending: Ending, slot_plan: SlotPlan, *, rebuild: bool
    ) -> None:
        self.is_ready = False
        self._parts = parts
        self._clock = clock
        self._ending = ending
        self._slot_plan = slot_plan
        self._watchdog = Watchdog(_end_stalled, silent_s_max=SILENT_S_MAX)
        self._flows = EmbeddedFlows(parts, now_ms, ending.fail, self._watchdog, rebuild=rebuild)
        self._log_care = LogCare(parts.log, ending.fail, now_ms)
        self._clock_complaint: str | None = None

    async def run(self, audience: Audience, began_s: float) -> bool:
        """Serves until the end; returns whether the parts can be closed."""
        settings = self._parts.settings
        app = build_app(self._parts.api_deps(now_ms, self.readiness))
        try:
            server, port = await start_server(app, settings.api.host, settings.api.port)
        except OSError as error:
            raise Refused(_port_sentence(settings.api.host, settings.api.port, error)) from error
        self._watchdog.start()
        self._flows.start()
        self._log_care.start()
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
            reasons.append("starting")
        if self._log_care.is_failing:
            reasons.append("log")
        complaint = self._clock.complaint()
        if complaint is not None:
            reasons.append("clock")
        if complaint != self._clock_complaint:
            self._clock_complaint = complaint
            _log.warning("clock_judged", complaint=complaint or "none any more")
        return reasons

    async def _announce(self, audience: Audience, port: int, began_s: float) -> None:
        while not self._flows.have_begun:  # noqa: ASYNC110 - other threads raise it, once
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
                slot_plan=self._slot_plan,
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


def _end_stalled(name: str, silent_s: float) -> None:
    """Ends the process at once: a stalled flow would not take part in a graceful stop."""
    _log.critical("stalled", part=name, silent_s=round(silent_s, 1))
    os._exit(ExitCode.STALLED)


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
