"""Clients that are slow on purpose: a head or a body that never ends must not hold a connection for ever.

The patience is shortened, nothing else; each test waits for the server to act, never for a time to pass.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from api.server import HEADERS_MAX, LINE_BYTES_MAX, Patience
from tests.integration.api_world import (
    ADMIN_KEY,
    EVENTS_PATH,
    ApiWorld,
    open_log,
    unread_delivery_log,
    unused_store,
)

HEAD = (
    f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    "Content-Type: application/json\r\n"
).encode()
LONG_S = 60.0  # longer than the test may take: what ends is ended by something else


@asynccontextmanager
async def serving(directory: Path, patience: Patience) -> AsyncIterator[ApiWorld]:
    log = open_log(directory / "log")
    async with ApiWorld(log, unread_delivery_log(), unused_store(), patience=patience).running() as world:
        yield world
    log.close()


async def dripped(world: ApiWorld, first: bytes, drop: bytes) -> bytes:
    """Sends something, then a drop every 20 ms; returns what came back when the server has closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(first)

    async def drip() -> None:
        while True:
            await asyncio.sleep(0.02)
            writer.write(drop)

    dripping = asyncio.create_task(drip())
    answer = b""
    try:
        while piece := await asyncio.wait_for(reader.read(65_536), 20):
            answer += piece
    except ConnectionError:
        pass  # it was closed while we wrote, long after the answer
    finally:
        dripping.cancel()
        writer.close()
    return answer


async def test_a_body_that_drips_for_ever_is_answered_408_and_the_connection_closed(tmp_path: Path) -> None:
    patience = Patience(head_s=LONG_S, body_s=0.3, linger_s=1.0)
    async with serving(tmp_path, patience) as world:
        answer = await dripped(world, HEAD + b"Content-Length: 300000\r\n\r\n[", b" ")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in head
        assert json.loads(body)["code"] == "request_timeout"
        assert world.events() == []


async def test_a_chunked_body_that_never_ends_is_answered_408(tmp_path: Path) -> None:
    patience = Patience(head_s=LONG_S, body_s=0.3, linger_s=1.0)
    async with serving(tmp_path, patience) as world:
        answer = await dripped(world, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n")
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_nobody_reads_does_not_hold_the_connection(tmp_path: Path) -> None:
    patience = Patience(head_s=LONG_S, body_s=LONG_S, linger_s=1.0)
    async with serving(tmp_path, patience) as world:
        answer = await dripped(world, b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n", b" ")
        assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_head_that_drips_for_ever_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path, Patience(head_s=0.3, body_s=LONG_S, linger_s=LONG_S)) as world:
        assert await dripped(world, b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"X-A: 1\r\n") == b""


async def test_a_second_head_that_drips_for_ever_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path, Patience(head_s=0.3, body_s=LONG_S, linger_s=LONG_S)) as world:
        answer = await dripped(world, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /l", b"i")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.endswith(b"ok\n")


async def test_silence_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path, Patience(head_s=0.3, body_s=LONG_S, linger_s=LONG_S)) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


async def test_a_slow_body_within_the_patience_is_taken(tmp_path: Path) -> None:
    async with serving(tmp_path, Patience(head_s=LONG_S, body_s=LONG_S, linger_s=LONG_S)) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        body = b'{"tenant_id": "acme", "type": "a", "data": 1}'
        writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        for byte in body:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0.001)
        assert (await reader.read()).startswith(b"HTTP/1.1 202 ")
        writer.close()
        assert len(world.events()) == 1


async def test_the_head_may_be_as_large_as_it_says_and_not_larger(tmp_path: Path) -> None:
    async with serving(tmp_path, Patience()) as world:
        edge = {"X-A": "a" * (LINE_BYTES_MAX - 1)}
        assert (await world.ask("GET", "/livez", headers=edge)).status == 200
        assert (
            await world.ask("GET", "/livez", headers={"X-A": "a" * (LINE_BYTES_MAX + 1)})
        ).code == "head_too_large"
        many = {f"X-{number}": "a" for number in range(HEADERS_MAX - 10)}
        assert (await world.ask("GET", "/livez", headers=many)).status == 200
        more = many | {f"Y-{number}": "a" for number in range(11)}
        assert (await world.ask("GET", "/livez", headers=more)).code == "head_too_large"


async def test_an_expectation_that_nobody_knows_is_passed_over(tmp_path: Path) -> None:
    async with serving(tmp_path, Patience()) as world:
        for expectation in (b"200-ok", b"\xff", b"100-Continue"):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            body = b'{"tenant_id": "acme", "type": "a", "data": 1}'
            head = HEAD + b"Connection: close\r\nExpect: %b\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % (expectation, len(body)) + body)
            answer = (await reader.read()).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 202 "), (expectation, answer)
            writer.close()
