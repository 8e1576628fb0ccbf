"""Conducts a run over one directory: starts the processes, puts load on, injects faults round by round.

A round: the victim starts, what was unsure is published again, the load comes on, the injector works, the
load goes off. After the last round the victim runs without faults until everything expected has arrived, or
nothing has for longer than any retry could take. What is left behind is files; `evidence` makes a history of
them.
"""

import json
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from deploy.chaos.child import Child, ChildFailedError
from deploy.chaos.publisher import EVENT_TYPE, Publisher, Target
from deploy.chaos.scenarios import Scenario
from deploy.chaos.scene import STOP_TIMEOUT_S, Scene, stop
from deploy.chaos.shared_page import HeldPage
from deploy.chaos.victim import PAGE_FILE, VictimReady
from deploy.chaos.witness_counts import SharedCounts
from deploy.chaos.witness_script import PathScript, WitnessScript
from deploy.checker.history import EndpointKnown, Fault
from deploy.process.load_settings import environment_name
from operators.signing import SECRET_BYTES, encode_secret

WITNESS_FILE: Final = "witness.log"
COUNTS_FILE: Final = "witness.counts"
READY_TIMEOUT_S: Final = 60.0
_RECORDED_S: Final = 2.5
"""The delivery log follows within 2 s; what it lacks at the stop it would take in at the next start."""
MARGIN: Final = 10
"""What may be answered between the look and the kill."""
_LOOK_S: Final = 0.02
_JITTER: Final = 1.25


class Conduct:
    """One run over one directory.

    Args:
        scenario: what to do.
        seed: of all chance in it: times, points, secrets, receivers' failures.
        directory: empty; everything is in there.
        victim_module: `deploy.chaos.victim`, or one with a planted defect.

    Attributes:
        faults: as injected.
        windows: of each round, when the load came on and when the fault began.
        problems: what was seen that no history shows: a start refused, an exit code.
        is_drained: everything expected arrived, or nothing did for long enough.
    """

    def __init__(self, scenario: Scenario, seed: int, directory: Path, victim_module: str) -> None:
        self.scenario = scenario
        self.directory = directory
        self.faults: list[Fault] = []
        self.windows: list[tuple[int, int]] = []
        self.endpoints: list[EndpointKnown] = []
        self.problems: list[str] = []
        self.is_drained = False
        self.slots = 0
        self.started_at_ns, self.started_at_ms = time.monotonic_ns(), time.time_ns() // 1_000_000
        load = scenario.load
        self.publisher = Publisher(load.tenants, load.publishes_per_s, f"seed-{seed}")
        self._seed = seed
        self._random = Random(seed)  # noqa: S311 - a scenario's chance, not a secret's
        self._victim_module = victim_module
        self._counts = SharedCounts(directory / COUNTS_FILE)
        self._held = HeldPage(directory / PAGE_FILE)
        self._scripts = self._make_scripts()
        self._starts = 0
        self._target = Target("", "")

    def perform(self, rounds: int, until_s: float) -> int:
        """Conducts the rounds; returns how many there were.

        Args:
            rounds: at most so many.
            until_s: `time.monotonic`: no round begins after it.
        """
        done = 0
        with ExitStack() as closing:
            witness, port = self._start_witness(self._scripts, closing)
            try:
                done = self._rounds(rounds, until_s, port, closing)
            except ChildFailedError as error:
                self.problems.append(str(error))
            witness.send(signal.SIGTERM)
            witness.wait(STOP_TIMEOUT_S)
        return done

    def catch_up(self) -> None:
        """Runs the victim once more, for the delivery log to take in what it lacks."""
        with ExitStack() as closing:
            try:
                victim = self._start_victim((), closing)
                time.sleep(_RECORDED_S)
                stop(victim)
            except ChildFailedError as error:
                self.problems.append(str(error))

    def environment(self) -> dict[str, str]:
        """Returns the settings of the victim, as its environment."""
        delays = json.dumps(self.scenario.delays_ms)
        return {
            environment_name("retry.delays_ms"): delays,
            environment_name("egress.timeout_ms"): str(self.scenario.timeout_ms),
            environment_name("egress.connect_timeout_ms"): str(self.scenario.timeout_ms),
            **self.scenario.environment,
        }

    def _rounds(self, rounds: int, until_s: float, port: int, closing: ExitStack) -> int:
        victim = self._start_victim((), closing)
        self._create_endpoints(self._scripts, port)
        done = 0
        while done < rounds and time.monotonic() < until_s:
            injector = self.scenario.injectors[done % len(self.scenario.injectors)]
            arguments = injector.arguments(self._random)
            if arguments and victim.is_alive:
                self.faults.append(stop(victim))
            if not victim.is_alive:
                victim = self._start_victim(arguments, closing)
            self.publisher.settle(self._target)
            scene = Scene(
                self._random,
                self.directory,
                victim,
                self._counts,
                self._held,
                self.scenario.in_flight_min + MARGIN,
                self.scenario.warm_up_s,
            )
            began_at_ns = time.monotonic_ns()
            with self.publisher.publishing(self._target):
                faults = injector.inject(scene)
            self.windows.append((began_at_ns, faults[0].began_at_ns))
            self.faults += faults
            done += 1
        if not victim.is_alive:
            victim = self._start_victim((), closing)
        self._drain(victim)
        return done

    def _make_scripts(self) -> dict[str, tuple[str, PathScript]]:
        """Returns path to (tenant, script)."""
        load, scripts = self.scenario.load, {}
        for tenant in load.tenants:
            for number in range(load.endpoints_per_tenant):
                receiver = load.receivers[number % len(load.receivers)]
                secret = encode_secret(self._random.randbytes(SECRET_BYTES))
                scripts[f"/{tenant}/{number}"] = (
                    tenant,
                    PathScript(
                        (secret,),
                        delay_ms=receiver.delay_ms,
                        fail_share=receiver.fail_share,
                        hang_share=receiver.hang_share,
                        reset_share=receiver.reset_share,
                    ),
                )
        return scripts

    def _start_witness(
        self, scripts: Mapping[str, tuple[str, PathScript]], closing: ExitStack
    ) -> tuple[Child, int]:
        file = self.directory / "witness.script"
        script = WitnessScript(self._seed, {path: one for path, (_, one) in scripts.items()})
        file.write_bytes(msgspec.json.encode(script))
        arguments = ["--script", file.name, "--out", WITNESS_FILE, "--counts", COUNTS_FILE]
        witness = Child(
            ["-m", "deploy.chaos.witness", *arguments], self.directory, self.directory / "witness.stderr"
        )
        closing.callback(_end, witness)
        return witness, int(witness.read_line(READY_TIMEOUT_S))

    def _start_victim(self, arguments: tuple[str, ...], closing: ExitStack) -> Child:
        self._starts += 1
        command = ["-m", self._victim_module, "--data", "data", *arguments]
        command += ["--in-flight-min", str(self.scenario.in_flight_min + MARGIN), "--witness", COUNTS_FILE]
        stderr = self.directory / f"victim.{self._starts}.stderr"
        victim = Child(command, self.directory, stderr, self.environment())
        closing.callback(_end, victim)
        ready = msgspec.json.decode(victim.read_line(READY_TIMEOUT_S), type=VictimReady)
        ready_at_ns = time.monotonic_ns()
        self.slots = ready.slots
        self._target = Target(ready.url, ready.admin_key)
        self.faults = [
            msgspec.structs.replace(fault, recovered_at_ns=ready_at_ns)
            if fault.recovered_at_ns is None
            else fault
            for fault in self.faults
        ]
        return victim

    def _create_endpoints(self, scripts: Mapping[str, tuple[str, PathScript]], port: int) -> None:
        connection = HTTPConnection(self._target.address, timeout=READY_TIMEOUT_S)
        headers = {
            "Authorization": f"Bearer {self._target.admin_key}",
            "Content-Type": "application/json",
        }
        for path, (tenant, script) in scripts.items():
            body = {
                "tenant_id": tenant,
                "url": f"http://127.0.0.1:{port}{path}",
                "event_types": [EVENT_TYPE],
                "verification": "skip",
                "secret": script.secrets[0],
            }
            connection.request("POST", "/api/v1/webhooks/endpoints", json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 201:
                raise ChildFailedError(f"an endpoint could not be created: {response.status} {answer}")
            self.endpoints.append(
                EndpointKnown(answer["id"], tenant, path, (EVENT_TYPE,), time.monotonic_ns())
            )
        connection.close()

    def _drain(self, victim: Child) -> None:
        """Waits for the end of all work, and stops the victim."""
        self.publisher.settle(self._target)
        patience_ns = round((self.scenario.quiet_s + max(self.scenario.delays_ms) * _JITTER / 1_000) * 1e9)
        began_at_ns = time.monotonic_ns()
        while True:
            counts = self._counts.read()
            if counts.accepted >= self.publisher.expected_count and not counts.in_flight:
                break
            if time.monotonic_ns() - max(counts.last_at_ns, began_at_ns) > patience_ns:
                break
            if not victim.is_alive:
                raise ChildFailedError(f"the process ended by itself with {victim.wait(1.0)}")
            time.sleep(_LOOK_S)
        self.is_drained = True
        time.sleep(_RECORDED_S)
        stop(victim)


def _end(child: Child) -> None:
    if child.is_alive:
        child.kill()
