"""A server that says exactly the bytes a test wants, when it wants, and notes exactly the bytes it gets.

Raw sockets on a thread of its own: a web server would refuse to misbehave. And a name server on the same
loop, so that names in URLs lead where the test says.
"""

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self, cast

Handler = Callable[["Peer"], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    """Returns a plain answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Seen:
    """One request as it came over the wire."""

    connection: int
    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for known, value in self.headers if known.lower() == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


@dataclass
class Peer:
    """One connection, in the hands of the test's handler."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: "ScriptedServer"

    async def request(self) -> Seen:
        """Reads one request, by its Content-Length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in head[1:-2])]
        seen = Seen(self.number, head[0], headers, b"")
        seen.body = await self.reader.readexactly(int(seen.header("content-length") or 0))
        self.server.seen.append(seen)
        return seen

    async def say(self, *pieces: bytes) -> None:
        """Writes the pieces, each in a segment of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def answer_all(self, raw: bytes = OK) -> None:
        """Answers every request on this connection in the same way."""
        while True:
            await self.request()
            await self.say(raw)

    def reset(self) -> None:
        """Ends the connection with RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_closed(self) -> int:
        """Waits until the client closes; returns how many bytes it sent before."""
        count = 0
        while piece := await self.reader.read(65_536):
            count += len(piece)
        self.server.closed_by_client.set()
        return count


@dataclass
class ScriptedServer:
    """Listens on loopback; each connection is handled by `handler`. A context manager."""

    handler: Handler
    tls: ssl.SSLContext | None = None
    names: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    connection_count: int = 0
    closed_by_client: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)
    port: int = 0
    dns_port: int = 0

    def __enter__(self) -> Self:
        self._started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="scripted", daemon=True
        )
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert not self.failures, self.failures

    @property
    def nameserver(self) -> str:
        return f"127.0.0.1:{self.dns_port}"

    def url(self, path: str = "/hook", *, host: str = "127.0.0.1", port: int | None = None) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{host}:{port or self.port}{path}"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.set_exception_handler(self._note_failure)
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.tls, limit=1 << 26)
        transport, _ = await self._loop.create_datagram_endpoint(
            lambda: _NameServer(self.names), local_addr=("127.0.0.1", 0)
        )
        self.port = server.sockets[0].getsockname()[1]
        self.dns_port = transport.get_extra_info("sockname")[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        transport.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _note_failure(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keeps what a callback raised; a connection that fails is what the tests are about."""
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):
            self.failures.append(error)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connection_count += 1
        try:
            await self.handler(Peer(self.connection_count, reader, writer, self))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        except BaseException as error:  # noqa: BLE001 - shown at the end of the test
            self.failures.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()


class _NameServer(asyncio.DatagramProtocol):
    """Answers A questions from a table, `silent` not at all; what is not in it does not exist."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode().lower())
            at += 1 + data[at]
        (kind,) = struct.unpack_from("!H", data, at + 1)
        address = self._names.get(".".join(labels))
        if address == "silent":
            return
        records = []
        if address is not None and address != "broken" and kind == 1:
            head = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4)
            records = [head + socket.inet_aton(one) for one in address.split()]
        code = 3 if address is None else 2 if address == "broken" else 0
        counts = struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        self._transport.sendto(data[:2] + counts + data[12 : at + 5] + b"".join(records), addr)
