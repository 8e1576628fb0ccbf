"""A real process whose wall clock a test sets, with endpoints that fail, and the witness of what they got.

The clock is set by a preloaded library of a few lines (`stepped_clock.c`), compiled here. libfaketime was
tried and cannot be used: under its version 0.9.10 `time.sleep` of Python 3.11 fails, because it does not know
absolute times of `clock_nanosleep`. The monotonic clock and the boot time stay real, as when a person sets
the clock.

The receiver lives in the same world: it judges timestamps by the stepped clock, gaps by the monotonic one.
"""

import mmap
import shutil
import struct
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from deploy.receiver.arrival import Arrival
from deploy.receiver.behaviour import Behaviour
from deploy.receiver.receiver import ReceiverThread
from operators.signing import Verdict, decode_secret, verify
from tests.conftest import RequireReal
from tests.integration.hooktide_process import HooktideProcess

SHORT_S = 4.0
LONG_S = 600.0
DELAYS_MS = f"[{SHORT_S * 1_000:.0f}, {LONG_S * 1_000:.0f}]"
PUBLISHES_PER_S = 20
JITTER = 1.25
SMEAR = 0.02
"""Of `schedule_line`: how far the schedule may be off while it follows a clock that was set."""
LATE_S = 10.0
"""How late an attempt may start on a busy machine; the issue allows 30 s."""
_SOURCE = Path(__file__).with_name("stepped_clock.c")


class SteppedClock:
    """The wall clock of the processes that are started with `env`.

    Attributes:
        env: preloads it.
    """

    def __init__(self, directory: Path, require_real: RequireReal) -> None:
        compiler = shutil.which("cc")
        require_real("a C compiler", compiler is not None, "apt-get install gcc libc6-dev")
        assert compiler is not None
        library, steps = directory / "stepped_clock.so", directory / "steps"
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl", "-pthread"], check=True
        )
        steps.write_bytes(bytes(16))
        with steps.open("r+b") as opened:
            self._steps = mmap.mmap(opened.fileno(), 16)
        self.env = {"LD_PRELOAD": str(library), "STEPPED_CLOCK_FILE": str(steps)}
        self._step_s = 0
        self._earlier_step_s = 0
        self._set_at_s = 0.0

    def set_to(self, step_s: int) -> None:
        """Sets the wall clock to so many seconds beside the true time."""
        self._earlier_step_s, self._step_s, self._set_at_s = self._step_s, step_s, time.monotonic()
        self._steps[:8] = struct.pack("q", step_s * 1_000)

    def now_s(self) -> list[int]:
        """Returns what the stepped clock shows, and for a second what it showed before it was set.

        A request may have been signed an instant earlier.
        """
        was_set_just_now = time.monotonic() - self._set_at_s < 1.0
        steps_s = [self._step_s, self._earlier_step_s] if was_set_just_now else [self._step_s]
        return [time.time_ns() // 1_000_000_000 + step_s for step_s in steps_s]


class Seen(NamedTuple):
    """One arrival as the witness noted it; `at_s` is monotonic."""

    at_s: float
    path: str
    event_id: str
    status: int | None
    verdict: Verdict


class SteppedWorld:
    """A process, four endpoints and a publisher.

    The endpoints: /good answers 200; /slow too, after 0.4 s; /flaky fails once; /dead always fails, so that
    its second attempt comes after four seconds and its third one would after ten minutes.
    """

    def __init__(self, hooktide: HooktideProcess, clock: SteppedClock) -> None:
        self.hooktide = hooktide
        self.clock = clock
        self.published: list[str] = []
        self.seen: list[Seen] = []
        self._secrets: dict[str, bytes] = {}
        self._receiver = ReceiverThread(on_arrival=self._note)
        self._env = {**clock.env, "HOOKTIDE__RETRY__DELAYS_MS": DELAYS_MS}
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._receiver.start()
        self.start()
        behaviours = {
            "/good": Behaviour(),
            "/slow": Behaviour(delay_s=0.4),
            "/flaky": Behaviour(fail_first=1),
            "/dead": Behaviour(status=500),
        }
        for path, behaviour in behaviours.items():
            self._receiver.behave(behaviour, path)
            endpoint = self.hooktide.create_endpoint(f"{self._receiver.url}{path}")
            self._secrets[path] = decode_secret(endpoint["secret"])
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()
        self.hooktide.close()
        self._receiver.stop()

    def start(self) -> None:
        """Starts the process."""
        self.hooktide.start(env=self._env)

    def work(self) -> None:
        """Publishes from now on, until `rest`."""
        self._is_stopping.clear()
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._thread.start()

    def rest(self) -> None:
        """Publishes nothing more."""
        self._is_stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def on(self, path: str) -> dict[str, list[Seen]]:
        """Returns what a path has got, by event."""
        found: dict[str, list[Seen]] = defaultdict(list)
        for seen in self.seen.copy():
            if seen.path == path:
                found[seen.event_id].append(seen)
        return found

    def await_that(self, fact: Callable[[], bool], what: str, timeout_s: float = 30.0) -> float:
        """Waits until a fact holds; returns how long that took, seconds."""
        began_s = time.monotonic()
        while not fact():
            is_late = time.monotonic() - began_s >= timeout_s
            assert not is_late, f"{what}: not in {timeout_s} s\n{self.hooktide.log}"
            time.sleep(0.02)
        return time.monotonic() - began_s

    def await_recovery(self) -> None:
        """Waits until the process is ready and an event that is published now has arrived.

        The issue allows 30 s in all.
        """
        until_s = time.monotonic() + 30.0
        self.await_that(lambda: self.hooktide.api("GET", "/readyz").status == 200, "ready")
        event_id = self.publish_one()
        left_s = until_s - time.monotonic()
        self.await_that(lambda: event_id in self.on("/good"), "a new event", left_s)

    def await_all(self) -> None:
        """Waits until every event has had all attempts that are due within seconds."""
        for path, count in (("/good", 1), ("/slow", 1), ("/flaky", 2), ("/dead", 2)):
            self.await_that(
                lambda path=path, count=count: self._has(path, count),  # type: ignore[misc]
                f"{len(self.published)} events on {path}",
            )

    def check(self, stood_still_s: float = 0.0) -> None:
        """Asserts that nothing came twice, early or unsigned.

        Args:
            stood_still_s: a retry may be later by so much.
        """
        events = set(self.published)
        for path, statuses in (
            ("/good", [200]),
            ("/slow", [200]),
            ("/flaky", [500, 200]),
            ("/dead", [500, 500]),
        ):
            got = self.on(path)
            assert set(got) == events, f"{path}: lost or unknown {set(got) ^ events}"
            wrong = {event: seen for event, seen in got.items() if [one.status for one in seen] != statuses}
            assert not wrong, f"{path}: {wrong}"
        for path in ("/flaky", "/dead"):
            gaps_s = [second.at_s - first.at_s for first, second in self.on(path).values()]
            assert min(gaps_s) >= SHORT_S * (1 - SMEAR), f"{path}: early by {SHORT_S - min(gaps_s)} s"
            late_s = max(gaps_s) - SHORT_S * JITTER * (1 + SMEAR) - stood_still_s
            assert late_s <= LATE_S, f"{path}: late by {late_s} s"
        assert {seen.verdict for seen in self.seen} == {Verdict.OK}

    def _has(self, path: str, count: int) -> bool:
        got = self.on(path)
        return all(len(got.get(event_id, ())) >= count for event_id in self.published)

    def _publish(self) -> None:
        while not self._is_stopping.wait(1 / PUBLISHES_PER_S):
            self.publish_one()

    def publish_one(self) -> str:
        """Publishes an event; returns its id."""
        event_id: str = self.hooktide.publish({"n": len(self.published)})["id"]
        self.published.append(event_id)
        return event_id

    def _note(self, arrival: Arrival) -> None:
        at_s = time.monotonic()
        headers, secrets = dict(arrival.headers), [self._secrets[arrival.path]]
        verdicts = [verify(headers, arrival.body, secrets, now_s) for now_s in self.clock.now_s()]
        verdict = Verdict.OK if Verdict.OK in verdicts else verdicts[0]
        self.seen.append(Seen(at_s, arrival.path, arrival.webhook_id, arrival.status, verdict))
