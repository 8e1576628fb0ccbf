"""Runs dataflows inside this process: one thread each, and no death goes unnoticed.

Bytewax's own entry for one worker, `run_main`, runs in the thread that calls it; several flows in several
threads of one process run, stop and take their last barrier cleanly (tried). It wraps what a callback raised
in its own `BytewaxRuntimeError`s, whose message names only the step, so the reason is dug out of the chain
here, once.

Rejected: `cli_main` (installs a Ctrl-C handler for the process, which is the supervisor's to own) and
Bytewax's clusters (two workers are slower than one for keyed work, and one death stops all).
"""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import cast

from bytewax import _bytewax
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError

OnDeath = Callable[[str, BaseException], None]

# The stub of the compiled module carries no types.
_run_main = cast("Callable[..., None]", _bytewax.run_main)


def run_flow(flow: Dataflow, *, epoch_interval_s: float) -> None:
    """Runs a flow in this thread until its sources have ended.

    Args:
        epoch_interval_s: time between barriers, in seconds; every source must be polled far more often than
            that.

    Raises:
        BaseException: whatever a callback raised, itself; a note names the step.
    """
    try:
        _run_main(flow, epoch_interval=timedelta(seconds=epoch_interval_s))
    except BytewaxRuntimeError as error:
        reason = root_of(error)
        if reason is error:
            raise
        reason.add_note(f"in dataflow {flow.flow_id!r}: {error}")
        raise reason from None


def root_of(error: BaseException) -> BaseException:
    """Returns the first error of the chain that is none of Bytewax's wrappers."""
    while isinstance(error, BytewaxRuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


class FlowThread:
    """One dataflow in a thread of its own.

    Args:
        name: of the flow, for the thread, the log and the supervisor.
        build: makes the dataflow; called in the thread, so it may take its time (reconciling, catching up).
        epoch_interval_s: time between barriers, in seconds.
        on_death: called in the flow's thread with (name, error) when building or running it raised. An end by
            `StopIteration` of all sources is no death.
    """

    def __init__(
        self, name: str, build: Callable[[], Dataflow], *, epoch_interval_s: float, on_death: OnDeath
    ) -> None:
        self.name = name
        self._build = build
        self._epoch_interval_s = epoch_interval_s
        self._on_death = on_death
        self._error: BaseException | None = None
        # A daemon: a flow that hangs must not keep the process from ending after the supervisor's deadline.
        self._thread = threading.Thread(target=self._run, name=f"flow-{name}", daemon=True)

    @property
    def error(self) -> BaseException | None:
        """What killed the flow, or None."""
        return self._error

    @property
    def is_alive(self) -> bool:
        """Whether the flow was started and has not ended."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits for the end of the flow.

        Returns:
            Whether it has ended.
        """
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            run_flow(self._build(), epoch_interval_s=self._epoch_interval_s)
        except BaseException as error:  # noqa: BLE001 - a SystemExit or a Rust panic in a thread would vanish
            self._error = error
            self._on_death(self.name, error)
