"""A record that kills the real process (SIGKILL), among a thousand others, in `route` and in `deliver`."""

import time
from collections import Counter
from http.client import HTTPException
from pathlib import Path

import pytest

from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Record, TopicPartition
from deploy.process.embedded_parts import partition_counts
from deploy.receiver.arrival import Arrival
from deploy.receiver.receiver import ReceiverThread
from schemas.settings import Settings
from schemas.topics import EVENTS, REJECTED
from schemas.wire import records
from tests.integration.deadly import MARK
from tests.integration.hooktide_process import HooktideProcess
from tests.integration.log_dump import dump
from tests.integration.poison_victim import VARIABLE

NEIGHBOURS = 1_000
DEADLY = 600
LIVES_MAX = 6
SIGKILLED = -9
DELAY_S_MAX = 30.0
"""What the neighbours are promised, restarts included."""
IN_FLIGHT_MAX = 64
"""To one endpoint: what one death may repeat."""


class PoisonProcess(HooktideProcess):
    """The process of `up` that its input kills, with a supervisor's patience.

    Attributes:
        deaths: how often it was killed so far.
        acknowledged_at_s: by event id.
    """

    module = "tests.integration.poison_victim"

    def __init__(self, directory: Path, where: str) -> None:
        super().__init__(directory)
        self.where = where
        self.deaths = 0
        self.acknowledged_at_s: dict[str, float] = {}

    def go(self) -> None:
        """Starts it, and again when it dies before it is ready."""
        while True:
            try:
                self.start(env={VARIABLE: self.where})
            except AssertionError:
                self.bury()
            else:
                return

    def bury(self) -> None:
        """Takes notice of its death."""
        assert self.wait() == SIGKILLED, self.log
        self.deaths += 1
        assert self.deaths < LIVES_MAX, self.log

    def is_dead(self) -> bool:
        return self.process.poll() is not None

    def publish_through(self, number: int, text: str) -> str:
        """Publishes one event, under a key, until somebody who lives has acknowledged it."""
        while True:
            try:
                event: str = self.publish({"n": number, "text": text}, key=f"key-{number}")["id"]
            except (OSError, HTTPException):
                self.bury()
                self.go()
            else:
                self.acknowledged_at_s[event] = time.monotonic()
                return event


def await_neighbours(process: PoisonProcess, receiver: ReceiverThread, expected: set[str]) -> None:
    """Waits until all have arrived; starts the process again whenever it died."""
    until_s = time.monotonic() + DELAY_S_MAX
    while missing := expected - {arrival.webhook_id for arrival in receiver.arrivals}:
        assert time.monotonic() < until_s, f"{len(missing)} have not arrived\n{process.log}"
        if process.is_dead():
            process.bury()
            process.go()
        receiver.wait_for(len(receiver.arrivals) + 1, timeout_s=0.2)


def rejected_records(process: PoisonProcess) -> list[Record]:
    """Reads the topic `rejected` of a stopped process."""
    log = LocalLog.open(
        process.data / "log", partitions=partition_counts(Settings()), clock_ms=lambda: 0, linger_ms=1
    )
    try:
        return list(
            log.reader({TopicPartition(REJECTED.name, 0): 0}).poll(TopicPartition(REJECTED.name, 0), 10)
        )
    finally:
        log.close()


@pytest.mark.timeout(150)
@pytest.mark.parametrize("where", ["route", "deliver"])
def test_a_record_that_kills_the_process_is_parked_after_three_deaths(tmp_path: Path, where: str) -> None:
    process = PoisonProcess(tmp_path / "poison", where)
    arrived_at_s: dict[str, float] = {}

    def note(arrival: Arrival) -> None:
        arrived_at_s.setdefault(arrival.webhook_id, time.monotonic())

    try:
        with ReceiverThread(on_arrival=note) as receiver:
            process.go()
            endpoint = process.create_endpoint(f"{receiver.url}/hook")
            ids = {
                process.publish_through(number, MARK.decode() if number == DEADLY else "harmless"): number
                for number in range(NEIGHBOURS + 1)
            }
            (deadly,) = [event for event, number in ids.items() if number == DEADLY]
            expected = set(ids) - {deadly}
            await_neighbours(process, receiver, expected)
            alarms = [line for line in process.log_lines if line["event"] == "record_parked"]
            if where == "deliver":
                shown = process.get_until(f"events/{deadly}/deliveries", lambda page: bool(page["data"]))
                (delivery,) = shown["data"]
                assert (delivery["state"], delivery["reason"]) == ("dead_lettered", "poison")
            assert process.terminate() == 0
            arrivals = Counter(arrival.webhook_id for arrival in receiver.arrivals)
    finally:
        process.close()

    assert process.deaths == 3
    (alarm,) = alarms
    assert (alarm["level"], alarm["deaths"]) == ("error", 3)
    assert set(arrivals) == expected
    assert arrivals.total() - len(arrivals) <= process.deaths * IN_FLIGHT_MAX
    delays_s = [arrived_at_s[event] - process.acknowledged_at_s[event] for event in expected]
    assert max(delays_s) <= DELAY_S_MAX
    if where == "route":
        (record,) = rejected_records(process)
        rejected = records.REJECTED.decode(record.value or b"")
        position = (rejected.topic, rejected.partition, rejected.offset)
        assert position == (EVENTS.name, alarm["partition"], alarm["offset"])
        assert rejected.reason == "poison"
        assert MARK in (rejected.value or b"")
    else:
        (letter,) = dump(process.data, "SELECT * FROM hooktide.dead_letters")
        assert (letter["event_id"], letter["endpoint_id"]) == (deadly, endpoint["id"])
        assert (letter["reason"], letter["attempt_count"]) == ("poison", 0)
        assert rejected_records(process) == []
