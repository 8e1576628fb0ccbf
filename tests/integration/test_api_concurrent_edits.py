"""Two clients edit one endpoint at once, each from the version it has read: exactly one wins each time."""

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from tests.integration.api_world import (
    AUTHORIZED,
    ENDPOINTS_PATH,
    ApiWorld,
    open_log,
    unread_delivery_log,
    unused_store,
)

ROUNDS = 1_000
Read = tuple[str, dict[str, Any]]


class Client:
    """An editor with a connection of its own."""

    def __init__(self, name: str, session: ClientSession, path: str) -> None:
        self.name = name
        self._session = session
        self._path = path
        self.seen: Read = ("", {})

    async def read(self) -> None:
        async with self._session.get(self._path, headers=AUTHORIZED) as response:
            assert response.status == 200
            self.seen = response.headers["ETag"], await response.json()

    async def edit(self, number: int) -> tuple[int, Read]:
        """Edits what was read last; returns the status, and tag and body of the answer."""
        headers = {**AUTHORIZED, "If-Match": self.seen[0]}
        body = {"description": f"{self.name} {number}"}
        async with self._session.patch(self._path, json=body, headers=headers) as response:
            return response.status, (response.headers["ETag"], await response.json())


async def test_exactly_one_of_two_edits_wins_and_both_then_see_the_same(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    wins = {"ann": 0, "bob": 0}
    async with ApiWorld(log, unread_delivery_log(), unused_store()).running() as world:
        created = await world.create_endpoint()
        base, path = f"http://127.0.0.1:{world.port}", f"{ENDPOINTS_PATH}/{created['id']}"
        async with ClientSession(base) as one, ClientSession(base) as other:
            ann, bob = Client("ann", one, path), Client("bob", other, path)
            for number in range(ROUNDS):
                await asyncio.gather(ann.read(), bob.read())
                assert ann.seen == bob.seen
                # Which one is heard first changes: neither wins by its place.
                clients = (ann, bob) if number % 2 else (bob, ann)
                answers = await asyncio.gather(*[client.edit(number) for client in clients])
                assert sorted(status for status, _ in answers) == [200, 412]
                place = 0 if answers[0][0] == 200 else 1
                won, lost = answers[place][1], answers[1 - place][1]
                winner = clients[place]
                wins[winner.name] += 1

                assert lost[0] == won[0], "the 412 names the version that won"
                assert won[1]["description"] == f"{winner.name} {number}"
                await asyncio.gather(ann.read(), bob.read())
                assert ann.seen == bob.seen == won
        assert ann.seen[0] == f'"{ROUNDS + 1}-active"'
    log.close()
    assert min(wins.values()) > 0, wins


async def test_edits_of_other_fields_without_a_condition_are_all_kept(tmp_path: Path) -> None:
    names = [f"X-{number}" for number in range(30)]
    log = open_log(tmp_path / "log")
    async with ApiWorld(log, unread_delivery_log(), unused_store()).running() as world:
        created = await world.create_endpoint()
        path = f"{ENDPOINTS_PATH}/{created['id']}"
        patches = [{"headers": {name: "1"}} for name in names]
        answers = await asyncio.gather(*[world.ask("PATCH", path, json=patch) for patch in patches])
        assert {answer.status for answer in answers} == {200}
        assert len({answer.headers["ETag"] for answer in answers}) == len(names)
        assert set((await world.ask("GET", path)).json["headers"]) == set(names)
    log.close()
