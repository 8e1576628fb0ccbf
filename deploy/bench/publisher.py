"""The client of the `api` stage: publishes events and expects 202; arguments are port and count."""

import asyncio
import sys

import aiohttp
import uvloop

from deploy.bench import load

IN_FLIGHT = 32


async def publish(port: int, count: int) -> None:
    """Publishes `count` events, `IN_FLIGHT` at a time."""
    url = f"http://127.0.0.1:{port}/api/v1/events"
    head = f'{{"tenant_id":"{load.TENANT}","type":"{load.EVENT_TYPE}","data":'.encode()
    body = head + load.body_of() + b"}"
    headers = {"Authorization": "Bearer bench", "Content-Type": "application/json"}
    numbers = iter(range(count))

    async def some(session: aiohttp.ClientSession) -> None:
        for _ in numbers:
            async with session.post(url, data=body, headers=headers) as answer:
                assert answer.status == 202, await answer.text()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(some(session) for _ in range(IN_FLIGHT)))


if __name__ == "__main__":
    uvloop.run(publish(int(sys.argv[1]), int(sys.argv[2])))
