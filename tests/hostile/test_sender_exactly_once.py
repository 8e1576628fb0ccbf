"""Every request comes back exactly once, whatever servers do and whenever we stop; no connection is left."""

import asyncio
import os
import random
import resource
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from dataflows.connectors.sender.aiohttp import EgressPolicy, open_aiohttp_sender
from schemas.outcome import ErrorCode, Outcome
from tests.conformance.scripted_server import OK, Peer, ScriptedServer, answer
from tests.conformance.sender_contract import free_port, post

REQUESTS = 150
_tick = threading.Event()


async def misbehave(peer: Peer) -> None:
    """Does what the path says; `mix` keeps the connection and goes on with something else."""
    while True:
        seen = await peer.request()
        deed = seen.line.split("/")[1].split(" ")[0]
        match deed:
            case "ok":
                await peer.say(OK)
            case "bytes":
                await peer.say(*[bytes([octet]) for octet in OK])
            case "hang":
                await peer.until_closed()
                return
            case "reset":
                peer.reset()
                return
            case "close":
                return
            case "cut":
                await peer.say(OK[: random.Random(len(peer.server.seen)).randrange(len(OK))])
                return
            case "garbage":
                await peer.say(b"\x00\xff" * 50)
            case "drip":
                await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
                await asyncio.sleep(0.4)
                return
            case "big":
                await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"b" * 99_999)
            case "poison":
                await peer.say(OK, b"HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n")
            case "moved":
                await peer.say(answer(307, "Location: /ok"))
            case _:
                await peer.say(answer(404))


DEEDS = ["ok", "bytes", "hang", "reset", "close", "cut", "garbage", "drip", "big", "poison", "moved", "other"]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def lowest_free_descriptor() -> int:
    probe = os.dup(0)
    os.close(probe)
    return probe


@pytest.mark.parametrize("seed", range(8))
def test_every_request_comes_back_exactly_once(seed: int) -> None:
    draw = random.Random(seed)
    nobody = f"http://127.0.0.1:{free_port()}/"
    open_aiohttp_sender(EgressPolicy()).close(0.0)  # libuv keeps one pipe per process, from the first loop on
    before = open_descriptors()
    with ScriptedServer(misbehave) as server:
        urls = [server.url(f"/{deed}") for deed in DEEDS]
        urls += [nobody, "http://169.254.169.254/", "nonsense", server.url().replace("http:", "https:")]
        sender = open_aiohttp_sender(EgressPolicy(allow_private=True))
        outcomes: list[Outcome] = []
        number = 0
        while number < REQUESTS:
            block = [
                post(
                    draw.choice(urls),
                    number + offset,
                    total_timeout_ms=draw.choice([100, 300, 30_000]),
                    connect_timeout_ms=draw.choice([100, 5_000]),
                )
                for offset in range(min(draw.choice([1, 7, 40]), REQUESTS - number))
            ]
            number += len(block)
            sender.submit(block)
            outcomes += sender.collect(draw.choice([1, 1_000]))
            _tick.wait(draw.choice([0.0, 0.001, 0.02]))
        sender.close(draw.choice([0.0, 0.05, 0.6]))
        outcomes += sender.collect(10 * REQUESTS)
    assert Counter(outcome.token for outcome in outcomes) == Counter((7, token) for token in range(REQUESTS))
    assert sender.in_flight_count == 0
    assert not [outcome for outcome in outcomes if outcome.error_code is ErrorCode.OUR_FAULT]
    for outcome in outcomes:
        assert (outcome.status is not None) or outcome.error_code
        assert outcome.finished_at_ms >= outcome.started_at_ms
    # The kernel's side of a closed socket may take a moment.
    give_up_at = time.monotonic() + 5
    while open_descriptors() > before and time.monotonic() < give_up_at:
        _tick.wait(0.01)
    assert open_descriptors() <= before


def test_a_stop_from_another_thread_in_the_middle_of_a_flood_loses_nothing() -> None:
    with ScriptedServer(Peer.answer_all) as server:
        sender = open_aiohttp_sender(EgressPolicy(allow_private=True))
        closer = threading.Thread(target=sender.close, args=(0.01,))
        total = 0
        for block in range(60):
            sender.submit([post(server.url(), total + number) for number in range(10)])
            total += 10
            if block == 30:
                closer.start()
        closer.join()
        outcomes = sender.collect(100_000)
    assert Counter(outcome.token for outcome in outcomes) == Counter((7, token) for token in range(total))
    assert {outcome.error_code for outcome in outcomes} <= {ErrorCode.NONE, ErrorCode.OUR_SHUTDOWN}


def test_a_machine_without_descriptors_is_our_fault_and_no_attempt() -> None:
    with ScriptedServer(Peer.answer_all) as server:
        sender = open_aiohttp_sender(EgressPolicy(allow_private=True))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free_descriptor(), hard))
        try:
            sender.submit([post(server.url())])
            outcomes: list[Outcome] = []
            while not outcomes:
                outcomes = sender.collect()
                _tick.wait(0.002)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            sender.close(0.0)
    assert outcomes[0].error_code is ErrorCode.OUR_FAULT
    assert "Too many open files" in outcomes[0].error_detail
