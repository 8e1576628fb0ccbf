"""A receiver that costs almost nothing: 200 to every POST, for measuring the sender and not the receiver.

A raw protocol on uvloop, about 5 us per request, instead of a web server's 100. It reads Content-Length
only, which is what our sender writes, takes pipelined and split requests, and counts. With `--record` it
keeps (webhook-id, path) of each request and writes them when it stops, so that a benchmark can also tell
lost from late.

Run as `python -m deploy.receiver.sink --port 0`: the first line it prints is its port, and on SIGTERM or
SIGINT it prints the number of requests and ends.
"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import Final

import uvloop

_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_LENGTH: Final = b"content-length:"
_ID: Final = b"webhook-id:"
_HEAD_BYTES_MAX: Final = 1 << 20


class Tally:
    """What all connections together have seen; `seen` is None when nothing is to be recorded."""

    def __init__(self, *, is_recording: bool) -> None:
        self.request_count = 0
        self.connection_count = 0
        self.seen: list[tuple[bytes, bytes]] | None = [] if is_recording else None


class SinkProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._transport: asyncio.Transport | None = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts it."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        self._tally.connection_count += 1

    def data_received(self, data: bytes) -> None:
        """Answers every request that is complete."""
        data = self._rest + data if self._rest else data
        answered = start = 0
        while (end := data.find(b"\r\n\r\n", start)) >= 0:
            head = data[start:end]
            lower = head.lower()
            at = lower.find(_LENGTH)
            length = int(lower[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(data) < end + 4 + length:
                break
            start = end + 4 + length
            answered += 1
            if self._tally.seen is not None:
                self._tally.seen.append((_value(head, lower, _ID), head.split(b" ", 2)[1]))
        self._rest = data[start:]
        assert self._transport is not None
        if answered:
            self._tally.request_count += answered
            self._transport.write(_ANSWER * answered)
        elif b"\r\n\r\n" not in self._rest and len(self._rest) > _HEAD_BYTES_MAX:
            self._transport.abort()


def _value(head: bytes, lower: bytes, name: bytes) -> bytes:
    at = lower.find(b"\n" + name)
    return head[at + 1 + len(name) :].split(b"\r\n", 1)[0].strip() if at >= 0 else b""


async def serve(port: int, *, is_recording: bool) -> Tally:
    """Serves until SIGTERM or SIGINT.

    Args:
        port: 0 takes a free one; it is printed.
        is_recording: whether to keep (webhook-id, path) of each request.
    """
    tally = Tally(is_recording=is_recording)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: SinkProtocol(tally), "127.0.0.1", port, backlog=4_096)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - the caller reads it
    await stop.wait()
    server.close()
    return tally


def main() -> None:
    """Parses the command line and serves."""
    parser = argparse.ArgumentParser(description="Answers 200 to every POST on 127.0.0.1, and counts.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument(
        "--record", type=Path, help="write `webhook-id path` per request to this file at the end"
    )
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tally = runner.run(serve(arguments.port, is_recording=arguments.record is not None))
    if arguments.record is not None and tally.seen is not None:
        arguments.record.write_bytes(b"".join(name + b" " + path + b"\n" for name, path in tally.seen))
    sys.stdout.write(f"{tally.request_count} requests on {tally.connection_count} connections\n")


if __name__ == "__main__":
    main()
