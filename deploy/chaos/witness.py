"""The witness: a receiver in a process of its own, whose file is the truth about what was sent.

A raw protocol on uvloop, because it shares the machine with what it watches: about 30 us a request, of which
the signature and the digest are a third. It writes a line for each request before it thinks about an answer,
answers after a delay when told to, and fails, hangs or resets a share of them.

Signatures are verified against the timestamp they carry, not against our clock: how old an attempt's time may
be is the checker's to judge, which knows of stepped clocks.

Run as `python -m deploy.chaos.witness --script FILE --out FILE --counts FILE`: it prints its port; on SIGTERM
it writes the last line and ends. `PUT /-/script` with a script as body replaces the script.
"""

import argparse
import asyncio
import hashlib
import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from deploy.chaos.witness_counts import Counts, SharedCounts
from deploy.chaos.witness_lines import Answered, Finished, Line, Received, encode_witness_line
from deploy.chaos.witness_script import PathScript, WitnessScript
from operators.signing import Verdict, decode_secret, verify

SCRIPT_PATH: Final = "/-/script"
FLUSH_S: Final = 0.02
_HEAD_BYTES_MAX: Final = 1 << 16
_REASONS: Final = {200: "OK", 204: "No Content", 404: "Not Found"}


class Witness:
    """What all connections share: the script, the file, the counts."""

    def __init__(self, script: WitnessScript, out: int, counts: SharedCounts) -> None:
        self.connection_count = 0
        self._out = out
        self._shared = counts
        self._lines: list[bytes] = []
        self._received = 0
        self._in_flight = 0
        self._accepted: set[tuple[str, str]] = set()
        self._random = random.Random(script.seed)  # noqa: S311 - a scenario's chance, not a secret's
        self.take_script(script)

    def take_script(self, script: WitnessScript) -> None:
        """From now on it answers like this."""
        self._paths = script.paths
        self._secrets = {
            path: [decode_secret(secret) for secret in one.secrets] for path, one in script.paths.items()
        }

    def receive(self, path: str, headers: Mapping[str, str], body: bytes, connection: int) -> int:
        """Writes a request down; returns its number."""
        at_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        timestamp = headers.get("webhook-timestamp", "")
        signed_s = int(timestamp) if timestamp.isascii() and timestamp.isdigit() else 0
        verdict = verify(headers, body, self._secrets.get(path, ()), signed_s)
        number = self._received
        self._received += 1
        self._in_flight += 1
        self._write(
            Received(
                number,
                at_ns,
                wall_ns // 1_000_000,
                path,
                headers.get("webhook-id", ""),
                signed_s,
                hashlib.sha256(body).hexdigest(),
                verdict.value if path in self._secrets else Verdict.BAD_SIGNATURE.value,
                connection,
            )
        )
        self._show(at_ns)
        return number

    def plan(self, path: str) -> tuple[PathScript | None, int | None]:
        """Returns the path's script, and the status to answer with: 0 resets, None hangs."""
        script = self._paths.get(path)
        if script is None:
            return None, 404
        share = self._random.random()
        for part, status in (
            (script.fail_share, script.fail_status),
            (script.reset_share, 0),
            (script.hang_share, None),
        ):
            if share < part:
                return script, status
            share -= part
        return script, 200

    def answer(
        self, number: int, status: int, *, is_open: bool, pair: tuple[str, str], retry_ms: int
    ) -> None:
        """Writes an answer down; to be called before it is written to the connection."""
        self._write(Answered(number, time.monotonic_ns(), status or None, is_open and status > 0, retry_ms))
        if is_open and 200 <= status < 300:
            self._accepted.add(pair)
        self._in_flight -= 1
        self._show()

    def drop(self) -> None:
        """A request lost its connection before it was answered."""
        self._in_flight -= 1
        self._show()

    def flush(self) -> None:
        """Hands the lines to the system."""
        if self._lines:
            lines, self._lines = self._lines, []
            os.write(self._out, b"".join(lines))

    def finish(self) -> None:
        """Writes the last line."""
        self._write(Finished(self._received, time.monotonic_ns()))
        self.flush()

    def _write(self, line: Line) -> None:
        self._lines.append(encode_witness_line(line))

    def _show(self, at_ns: int = 0) -> None:
        self._last_at_ns = at_ns or self._last_at_ns
        self._shared.write(Counts(self._received, self._in_flight, len(self._accepted), self._last_at_ns))

    _last_at_ns = 0


class WitnessProtocol(asyncio.Protocol):
    """One connection: one request at a time, whatever else comes waits in the buffer."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._number = witness.connection_count
        witness.connection_count += 1
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._is_waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        """What was being answered is cut off."""
        del exc
        self._transport = None
        if self._is_waiting:
            self._is_waiting = False
            self._witness.drop()

    def data_received(self, data: bytes) -> None:
        """Takes what came, and the next request when the last one is answered."""
        self._rest += data
        if not self._is_waiting:
            self._next()

    def _next(self) -> None:
        data = self._rest
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _HEAD_BYTES_MAX and self._transport is not None:
                self._transport.abort()
            return
        first, *lines = data[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
        start, length = end + 4, int(headers.get("content-length", "0"))
        if len(data) < start + length:
            return
        body, self._rest = data[start : start + length], data[start + length :]
        path = first.split(" ")[1]
        if path == SCRIPT_PATH:
            self._witness.take_script(msgspec.json.decode(body, type=WitnessScript))
            self._send(204, 0)
            return
        number = self._witness.receive(path, headers, body, self._number)
        script, status = self._witness.plan(path)
        self._is_waiting = True
        if status is None:
            return
        answer = (number, status, (headers.get("webhook-id", ""), path), script)
        if script is not None and script.delay_ms:
            asyncio.get_running_loop().call_later(script.delay_ms / 1_000, self._answer, *answer)
        else:
            self._answer(*answer)

    def _answer(self, number: int, status: int, pair: tuple[str, str], script: PathScript | None) -> None:
        transport = self._transport
        if not self._is_waiting or transport is None:
            return  # cut off meanwhile, and counted then
        self._is_waiting = False
        retry_s = script.retry_after_s if script is not None and status >= 400 else 0
        self._witness.answer(
            number, status, is_open=not transport.is_closing(), pair=pair, retry_ms=retry_s * 1_000
        )
        if status == 0:
            transport.abort()
        else:
            self._send(status, retry_s)
            if self._rest:
                self._next()

    def _send(self, status: int, retry_after_s: int) -> None:
        if self._transport is None:
            return
        retry = f"retry-after: {retry_after_s}\r\n" if retry_after_s else ""
        head = f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\n{retry}content-length: 0\r\n\r\n"
        self._transport.write(head.encode())


async def serve(script: WitnessScript, out: int, counts: SharedCounts) -> None:
    """Serves on a free port of loopback until SIGTERM."""
    witness = Witness(script, out, counts)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: WitnessProtocol(witness), "127.0.0.1", 0, backlog=4_096)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - the harness reads it
    while not stop.is_set():
        witness.flush()
        try:
            await asyncio.wait_for(stop.wait(), FLUSH_S)
        except TimeoutError:
            continue
    server.close()
    witness.finish()


def main() -> None:
    """Parses the command line and serves."""
    parser = argparse.ArgumentParser(description="The witness of a chaos run.")
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    given = parser.parse_args()
    script = msgspec.json.decode(given.script.read_bytes(), type=WitnessScript)
    out = os.open(given.out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(script, out, SharedCounts(given.counts)))
    os.close(out)


if __name__ == "__main__":
    main()
