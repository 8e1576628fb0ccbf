"""The load generator: publishes at an even rate over a few connections, and knows what it was told.

An open loop: what is due is due, however slow the answers are. What got no sure answer is published again
with the same key after a restart, until the answer is sure; both calls are in the history, under one key.

Threads and `http.client`, because a publish costs 0.3 ms that way and 120 a second are enough (the fan-out
makes the deliveries). Rejected: an asyncio client (it would save a percent of a core and hide which bytes
went out before a reset).
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from itertools import count
from typing import Final, NamedTuple

from deploy.chaos.child import ChildFailedError
from deploy.checker.history import Publish, Result

CONNECTIONS: Final = 8
TIMEOUT_S: Final = 5.0
EVENT_TYPE: Final = "order.created"
_BACKOFF_S: Final = 0.05
_SETTLE_S: Final = 30.0


class Target(NamedTuple):
    """Where to publish: changes with every start."""

    url: str
    admin_key: str

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")


class Wanted(NamedTuple):
    """An event to be published: the same call whenever it is repeated."""

    tenant_id: str
    key: str
    data: bytes


class Publisher:
    """Publishes numbered events, to one tenant after the other.

    Args:
        tenants: round robin.
        per_s: publishes a second, over all connections.
        name: part of every key.
    """

    def __init__(self, tenants: tuple[str, ...], per_s: float, name: str) -> None:
        self.records: list[Publish] = []
        self.windows: list[tuple[int, int]] = []
        """When load was on: pairs of CLOCK_MONOTONIC."""
        self._tenants = tenants
        self._per_s = per_s
        self._name = name
        self._numbers = count()
        self._unsure: dict[str, Wanted] = {}
        self._matched: dict[str, int] = {}
        self._stop = threading.Event()

    @property
    def expected_count(self) -> int:
        """How many deliveries the acknowledged events make."""
        return sum(self._matched.values())

    @contextmanager
    def publishing(self, target: Target) -> Iterator[None]:
        """Publishes as long as the block runs; a process that is gone ends nothing but the calls to it."""
        self._stop.clear()
        threads = [
            threading.Thread(target=self._run, args=(target, number), name=f"publisher-{number}")
            for number in range(CONNECTIONS)
        ]
        began_at_ns = time.monotonic_ns()
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self.windows.append((began_at_ns, time.monotonic_ns()))
            for thread in threads:
                thread.join()

    def settle(self, target: Target) -> int:
        """Publishes again what is unsure, until it is sure; returns how many that were.

        Raises:
            ChildFailedError: the API gives no sure answer.
        """
        unsure = list(self._unsure.values())
        until_s = time.monotonic() + _SETTLE_S
        connection = HTTPConnection(target.address, timeout=TIMEOUT_S)
        for wanted in unsure:
            while self._publish(connection, target, wanted) is not Result.OK:
                if time.monotonic() > until_s:
                    raise ChildFailedError(f"no sure answer to key {wanted.key} within {_SETTLE_S:g} s")
                connection.close()
                time.sleep(_BACKOFF_S)
        connection.close()
        return len(unsure)

    def _run(self, target: Target, number: int) -> None:
        connection = HTTPConnection(target.address, timeout=TIMEOUT_S)
        due_s = time.monotonic() + number / self._per_s  # evenly, not in bursts of all connections
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            due_s += CONNECTIONS / self._per_s
            if self._publish(connection, target, self._next()) is not Result.OK:
                connection.close()
                self._stop.wait(_BACKOFF_S)
        connection.close()

    def _next(self) -> Wanted:
        number = next(self._numbers)
        tenant = self._tenants[number % len(self._tenants)]
        data = json.dumps({"number": number, "note": "x" * 100}).encode()
        return Wanted(tenant, f"{self._name}-{number}", data)

    def _publish(self, connection: HTTPConnection, target: Target, wanted: Wanted) -> Result | None:
        """Publishes once; returns None when nobody listened, which is no call."""
        body = b'{"tenant_id":"%b","type":"%b","data":%b}' % (
            wanted.tenant_id.encode(),
            EVENT_TYPE.encode(),
            wanted.data,
        )
        headers = {
            "Authorization": f"Bearer {target.admin_key}",
            "Content-Type": "application/json",
            "Idempotency-Key": wanted.key,
        }
        try:
            if connection.sock is None:
                connection.connect()
        except OSError:
            return None
        invoked_at_ns = time.monotonic_ns()
        self._unsure[wanted.key] = wanted
        event_id, matched = "", -1
        try:
            connection.request("POST", "/api/v1/events", body, headers)
            response = connection.getresponse()
            answer = response.read()
            result = _meaning(response.status)
            if result is Result.OK:
                told = json.loads(answer)
                event_id, matched = told["id"], told["matched_endpoints"]
        except (OSError, HTTPException, ValueError):
            result = Result.INFO
        if result is not Result.INFO:
            self._unsure.pop(wanted.key, None)
        if result is Result.OK:
            self._matched[wanted.key] = matched
        self.records.append(
            Publish(
                invoked_at_ns,
                time.monotonic_ns(),
                result,
                wanted.tenant_id,
                wanted.key,
                EVENT_TYPE,
                event_id,
                hashlib.sha256(wanted.data).hexdigest(),
                matched,
            )
        )
        return result


def _meaning(status: int) -> Result:
    if status == 202:
        return Result.OK
    # 409: the first call with this key is still running; 503: the log was silent. Both may have happened.
    return Result.FAIL if 400 <= status < 500 and status != 409 else Result.INFO
