"""Runs the demo: publishes, watches, reads back, compares.

Everything is read through the API, as a customer would. It ends when every delivery has, or when nothing
has changed for a long time; what has not ended then is a difference.
"""

import random
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

from deploy.client.answers import DeliveryRow, row
from deploy.client.api import HooktideApi, one
from deploy.demo.board import Board, make_board
from deploy.demo.comparison import Told, compare
from deploy.demo.own_hooktide import OwnHooktide
from deploy.demo.stage import PARTS, Stage, set_stage
from deploy.payloads.samples import Sample, all_samples
from deploy.process.exit_codes import ExitCode

QUIET_S_MAX: Final = 20.0
PAUSE_S: Final = 0.05
"""Between two events: slow enough to watch."""
_PACED_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be shown; `miscount` is how many requests the receivers are made to forget."""

    events: int
    seed: int
    miscount: int = 0


def run_demo(plan: Plan, api: HooktideApi | None, *, as_json: bool) -> ExitCode:
    """Runs the demo to its end.

    Args:
        api: of a Hooktide that runs; None: one of its own.
        as_json: prints one document at the end, and nothing before.

    Raises:
        HooktideError: it cannot be shown here.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    board = make_board(as_json=as_json)
    if api is None:
        board.say("Starting a Hooktide of its own, in a temporary directory ...")
    with OwnHooktide() if api is None else nullcontext() as own:
        used = own.api if own is not None else api
        assert used is not None
        with set_stage(used, plan.seed, plan.miscount, is_ours=own is not None) as stage:
            told = _play(plan, used, stage, board)
            tallies, differences = compare(told, stage.received())
    board.conclude(plan.events, tallies, differences)
    return ExitCode.FAILED if differences else ExitCode.OK


def _leave(number: int, _: object) -> None:
    """Ends the demo by an exception, so that what it started is stopped."""
    raise SystemExit(128 + number)


def _play(plan: Plan, api: HooktideApi, stage: Stage, board: Board) -> list[Told]:
    chosen: dict[str, Sample] = {}
    play = _Play(api, stage)
    # For choosing payloads, not for secrets; the same seed shows the same events.
    samples = random.Random(plan.seed).choices(all_samples(), k=plan.events)  # noqa: S311
    with board:
        for number, sample in enumerate(samples):
            event = api.publish(sample.type, sample.data, key=f"demo-{plan.seed}-{number}")
            chosen[str(event["id"])] = sample
            play.open[str(event["id"])] = {}
            board.show(len(chosen), stage.answered(), play.ended)
            if plan.events <= _PACED_MAX:
                time.sleep(PAUSE_S)
        quiet_since_s = time.monotonic()
        while play.open and time.monotonic() - quiet_since_s < QUIET_S_MAX:
            before = sum(play.ended.values())
            play.look()
            board.show(len(chosen), stage.answered(), play.ended)
            if sum(play.ended.values()) > before:
                quiet_since_s = time.monotonic()
            else:
                time.sleep(PAUSE_S)
    return [
        Told(part, event_id, chosen[event_id].data, play.read(event_id, endpoint))
        for event_id in chosen
        for part, endpoint in stage.endpoints.items()
    ]


class _Play:
    """What is still open.

    Attributes:
        open: events of which a delivery has not ended, with those deliveries that have, by endpoint.
        ended: how many deliveries have, by part and state.
    """

    def __init__(self, api: HooktideApi, stage: Stage) -> None:
        self.open: dict[str, dict[str, str]] = {}
        self.ended: dict[tuple[str, str], int] = {}
        self._api = api
        self._part_of = {endpoint: part for part, endpoint in stage.endpoints.items()}
        self._delivery_of: dict[tuple[str, str], str] = {}

    def look(self) -> None:
        """Asks the API for the deliveries of every event that is open."""
        for event_id, ended in list(self.open.items()):
            for document in self._api.get(one("/events", event_id, "deliveries"))["data"]:
                delivery = row(DeliveryRow, document)
                self._delivery_of[event_id, delivery.endpoint_id] = delivery.id
                if delivery.is_final and delivery.endpoint_id not in ended:
                    ended[delivery.endpoint_id] = delivery.state
                    key = (self._part_of[delivery.endpoint_id], delivery.state)
                    self.ended[key] = self.ended.get(key, 0) + 1
            if len(ended) == len(PARTS):
                del self.open[event_id]

    def read(self, event_id: str, endpoint: str) -> DeliveryRow:
        """Returns a delivery with its attempts; an empty one when there is none."""
        delivery_id = self._delivery_of.get((event_id, endpoint))
        if delivery_id is None:
            return DeliveryRow(id="", event_id=event_id, endpoint_id=endpoint, state="missing")
        return row(DeliveryRow, self._api.get(one("/deliveries", delivery_id)))
