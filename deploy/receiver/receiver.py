"""A webhook receiver on loopback: verifies, records, answers as it is told; for `listen` and for tests.

It is the witness of what was really sent, so it keeps everything: a request is recorded, and its line
written, before it is answered. It checks signatures with the same function that documents how a receiver
should.

`Receiver` runs on the caller's event loop, `ReceiverThread` on one of its own, so that a test in plain code
can start one, wait for arrivals, and stop it.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Self

from aiohttp import web

from deploy.receiver.arrival import UNCHECKED, Arrival, encode_line
from deploy.receiver.behaviour import Answer, Behaviour, decide, is_failure
from deploy.receiver.relay import Relay
from operators.signing import verify

BODY_BYTES_MAX: Final = 64 << 20
_START_TIMEOUT_S: Final = 10.0

OnArrival = Callable[[Arrival], None]


class Receiver:
    """Receives POSTs on any path.

    Args:
        secrets: decoded; any of them may have signed. None given: signatures are not checked.
        record_to: a file that gets one line of JSON per arrival, appended.
        on_arrival: called with each arrival before it is answered.
        clock_ns: UTC.
        relay: asked for the answer to every request that the behaviour does not fail.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[bytes] = (),
        record_to: Path | None = None,
        on_arrival: OnArrival | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        relay: Relay | None = None,
    ) -> None:
        self.arrivals: list[Arrival] = []
        self._secrets = tuple(secrets)
        self._secrets_of: dict[str, tuple[bytes, ...]] = {}
        self._behaviour = Behaviour()
        self._behaviour_of: dict[str, Behaviour] = {}
        self._record_to = record_to
        self._record: BinaryIO | None = None
        self._on_arrival = on_arrival
        self._clock_ns = clock_ns
        self._relay = relay
        self._path_counts: Counter[str] = Counter()
        self._id_counts: Counter[tuple[str, str]] = Counter()
        self._runner: web.AppRunner | None = None
        self._stopping: asyncio.Event | None = None

    def behave(self, behaviour: Behaviour, path: str | None = None) -> None:
        """Sets how requests are answered from now on: on one path, or on all others."""
        if path is None:
            self._behaviour = behaviour
        else:
            self._behaviour_of[path] = behaviour

    def trust(self, secrets: Sequence[bytes], path: str | None = None) -> None:
        """Sets the secrets that are accepted from now on: on one path, or on all others."""
        if path is None:
            self._secrets = tuple(secrets)
        else:
            self._secrets_of[path] = tuple(secrets)

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> str:
        """Starts to listen; returns the URL without a path.

        Args:
            port: 0 takes a free one.
        """
        self._stopping = asyncio.Event()
        if self._record_to is not None:
            # Unbuffered: a killed receiver has written what it answered.
            self._record = self._record_to.open("ab", buffering=0)
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        bound_host, bound_port = self._runner.addresses[0][:2]
        return f"http://{bound_host}:{bound_port}"

    async def stop(self) -> None:
        """Lets hanging requests go and stops listening."""
        if self._stopping is not None:
            self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._relay is not None:
            await self._relay.close()
        if self._record is not None:
            self._record.close()

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        path = request.path
        headers = tuple((name.lower(), value) for name, value in request.headers.items())
        webhook_id = request.headers.get("webhook-id", "")
        self._path_counts[path] += 1
        self._id_counts[path, webhook_id] += 1
        behaviour = self._behaviour_of.get(path, self._behaviour)
        number = self._id_counts[path, webhook_id]
        answer = decide(behaviour, webhook_id, number)
        now_ns = self._clock_ns()
        if self._relay is not None and not is_failure(behaviour, webhook_id, number):
            answer = await self._relay.forward(request.method, request.path_qs, headers, body)
        arrival = Arrival(
            received_at_ns=now_ns,
            path=request.path_qs,
            headers=headers,
            body=body,
            verdict=self._judge(path, request, body, now_ns // 1_000_000_000),
            status=answer.status,
            number=self._path_counts[path],
        )
        if self._record is not None:
            self._record.write(encode_line(arrival))
        self.arrivals.append(arrival)
        if self._on_arrival is not None:
            self._on_arrival(arrival)
        return await self._answer(behaviour, answer)

    def _judge(self, path: str, request: web.Request, body: bytes, now_s: int) -> str:
        secrets = self._secrets_of.get(path, self._secrets)
        return verify(request.headers, body, secrets, now_s).value if secrets else UNCHECKED

    async def _answer(self, behaviour: Behaviour, answer: Answer) -> web.Response:
        assert self._stopping is not None
        if answer.status is None or behaviour.delay_s:
            try:
                async with asyncio.timeout(None if answer.status is None else behaviour.delay_s):
                    await self._stopping.wait()
            except TimeoutError:
                pass  # the delay is over
        return web.Response(status=answer.status or 503, headers=list(answer.headers), body=answer.body)


class ReceiverThread:
    """A receiver in a thread of its own; a context manager.

    Attributes:
        url: without a path; set by `start`.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[bytes] = (),
        record_to: Path | None = None,
        on_arrival: OnArrival | None = None,
    ) -> None:
        self._arrived = threading.Condition()
        self._on_arrival = on_arrival
        self._receiver = Receiver(secrets=secrets, record_to=record_to, on_arrival=self._note)
        self._started = threading.Event()
        self._start_error: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._port = 0
        self.url = ""

    def start(self, port: int = 0) -> Self:
        """Starts to listen.

        Raises:
            OSError: the port is taken.
        """
        self._port = port
        self._thread.start()
        if not self._started.wait(_START_TIMEOUT_S):
            raise OSError(f"the receiver did not start within {_START_TIMEOUT_S:g} s")
        if self._start_error is not None:
            raise self._start_error
        return self

    def stop(self) -> None:
        """Stops listening and waits for the thread."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def arrivals(self) -> list[Arrival]:
        """What has arrived so far, in order; a copy."""
        return self._receiver.arrivals.copy()

    def behave(self, behaviour: Behaviour, path: str | None = None) -> None:
        """See `Receiver.behave`."""
        self._receiver.behave(behaviour, path)

    def trust(self, secrets: Sequence[bytes], path: str | None = None) -> None:
        """See `Receiver.trust`."""
        self._receiver.trust(secrets, path)

    def wait_for(self, count: int, timeout_s: float) -> list[Arrival]:
        """Waits until so many have arrived, or the time is over; returns what has."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._receiver.arrivals) >= count, timeout_s)
        return self.arrivals

    def _note(self, arrival: Arrival) -> None:
        with self._arrived:
            self._arrived.notify_all()
        if self._on_arrival is not None:
            self._on_arrival(arrival)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            self.url = await self._receiver.start(self._port)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits for the start
            self._start_error = error
            await self._receiver.stop()
            return
        finally:
            self._started.set()
        await self._stop.wait()
        await self._receiver.stop()
