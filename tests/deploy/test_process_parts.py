"""The small parts of a process: slots, log lines, heartbeats, exit codes, the greeting."""

import asyncio
import io
import json
import signal
import threading

import pytest
import structlog

from dataflows.engine.watchdog import Watchdog
from deploy.process.descriptors import SlotPlan
from deploy.process.ending import Ending
from deploy.process.exit_codes import ExitCode, code_of_death, code_of_start
from deploy.process.greeting import Ready, greeting
from deploy.process.heartbeat import Heartbeat
from deploy.process.log_lines import configure_logging
from schemas.errors import BadSettings, DirectoryInUse, LogUnavailable, StoreUnavailable
from schemas.settings import Settings

KEY = "hk_abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"


def test_log_lines_are_json_and_hold_no_secret() -> None:
    out = io.StringIO()
    configure_logging("info", out)
    try:
        log = structlog.get_logger("test")
        log.debug("not shown")
        log.info("shown", key=KEY, secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        try:
            raise ValueError(f"Authorization: Bearer {KEY}")  # noqa: TRY301 - it stands for a failing call
        except ValueError:
            log.exception("failed")
    finally:
        structlog.reset_defaults()

    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["shown", "failed"]
    assert lines[0]["level"] == "info"
    assert "ValueError" in lines[1]["exception"]
    assert KEY[3:] not in out.getvalue()
    assert "MfKQ9r8" not in out.getvalue()


def test_a_flow_is_watched_from_its_first_beat_to_its_end() -> None:
    now_s = [0.0]
    stalled: list[str] = []
    watchdog = Watchdog(
        lambda name, _: stalled.append(name), silent_s_max=10, check_s=4, clock=lambda: now_s[0]
    )
    heartbeat = Heartbeat(watchdog, "deliver")

    def pass_time() -> None:
        for _ in range(5):
            now_s[0] += 4
            watchdog.check()

    pass_time()
    assert (stalled, heartbeat.has_begun) == ([], False)
    heartbeat.beat()
    pass_time()
    assert (stalled, heartbeat.has_begun) == (["deliver"], True)
    heartbeat.beat()
    heartbeat.end()
    pass_time()
    assert stalled == ["deliver"]


def test_the_second_signal_ends_at_once() -> None:
    codes: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ending = Ending(codes.append)
    ending.listen()
    try:
        signal.raise_signal(signal.SIGTERM)
        assert (codes, ending.has_begun) == ([], True)
        signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert codes == [ExitCode.INTERRUPTED]


async def test_a_death_in_another_thread_wakes_the_loop_and_the_first_one_counts() -> None:
    ending = Ending()
    errors = [LogUnavailable("full"), ValueError("later")]

    def die() -> None:
        for error in errors:
            ending.fail("route", error)

    thread = threading.Thread(target=die)
    waiting = asyncio.create_task(ending.wait())
    await asyncio.sleep(0)
    thread.start()
    async with asyncio.timeout(5):
        await waiting
    thread.join()

    assert (ending.failed_part, ending.failure) == ("route", errors[0])


async def test_an_end_before_the_loop_is_not_missed() -> None:
    ending = Ending()
    ending.fail("record", StoreUnavailable("gone"))

    async with asyncio.timeout(5):
        await ending.wait()


def test_errors_have_their_exit_codes() -> None:
    assert [code_of_start(error("x")) for error in (BadSettings, DirectoryInUse, StoreUnavailable)] == [
        2,
        3,
        3,
    ]
    assert [
        code_of_death(error("x")) for error in (BadSettings, DirectoryInUse, StoreUnavailable, ValueError)
    ] == [2, 3, 1, 1]


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("is_key_new", [True, False])
def test_the_key_is_shown_once_and_to_a_person_only(*, is_key_new: bool, is_terminal: bool) -> None:
    ready = Ready(
        url="http://127.0.0.1:8400",
        data="elsewhere",
        admin_key=KEY,
        is_key_new=is_key_new,
        slot_plan=SlotPlan(256, 1_024, is_lowered=True),
        started_ms=1_234,
    )

    text = greeting(ready, Settings(data="elsewhere"), is_terminal=is_terminal)

    assert (KEY in text) == (is_key_new and is_terminal)
    assert "./hooktide key show --data elsewhere" in text
    assert "256 at once, lowered to what 1024 file descriptors allow" in text
    assert "https://example.com/hooks" in text
    assert "./hooktide listen" not in text


def test_the_greeting_of_development_offers_a_receiver() -> None:
    settings = Settings.model_validate({"egress": {"allow_private_networks": True}})
    ready = Ready("http://127.0.0.1:1", ".hooktide-data", KEY, False, SlotPlan(4_096, 20_000, False), 900)  # noqa: FBT003

    text = greeting(ready, settings, is_terminal=False)

    assert "./hooktide listen &" in text
    assert '"url": "http://127.0.0.1:8401/hooks"' in text
    assert "KEY=$(./hooktide key show)\n" in text
