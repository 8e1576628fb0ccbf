"""What a correct sender does is accepted: ten thousand histories of the reference model."""

from collections import Counter

import pytest

from deploy.checker import history as h
from deploy.checker.check import check
from deploy.checker.report import Verdict, text
from schemas.delivery import DeliveryState
from tests.checker.reference_model import make_history

HISTORIES = 10_000


@pytest.mark.timeout(180)  # ten seconds alone; the machine is shared
def test_ten_thousand_histories_of_the_reference_model_pass() -> None:
    seen: Counter[str] = Counter()
    for seed in range(HISTORIES):
        records = make_history(seed)
        report = check(records)

        assert report.verdict is Verdict.OK, text(report)
        assert report.not_checked == ()
        seen.update(report.sizes)
        seen["repeats"] += sum(outage.repeats for outage in report.outages)
        for record in records:
            match record:
                case h.Fault():
                    seen[f"fault {record.kind}"] += 1
                case h.Control():
                    seen[f"{record.action} {record.result}"] += 1
                case h.Publish():
                    seen[f"publish {record.result}"] += 1
                case h.TransitionRecord():
                    seen[f"{record.state} {record.reason}"] += 1

    # A model that never does the hard things would prove nothing.
    for kind in ("kill", "power_cut", "stop", "pause", "clock_step", "poison"):
        assert seen[f"fault {kind}"] >= 500, (kind, seen)
    for action in ("delete", "disable", "enable", "pause", "resume", "cancel", "retry_now", "replay"):
        assert seen[f"{action} ok"] >= 200, (action, seen)
    for result in h.Result:
        assert seen[f"publish {result}"] >= 1_000, (result, seen)
    for reason in ("retries_exhausted", "permanent_status", "endpoint_gone", "expired_while_held"):
        assert seen[f"{DeliveryState.DEAD_LETTERED} {reason}"] >= 20, (reason, seen)
    assert seen["repeats"] >= 500, seen
    print(dict(seen))  # noqa: T201 - the figures belong into the log


def test_a_seed_makes_one_history() -> None:
    assert make_history(7) == make_history(7)
    assert make_history(7) != make_history(8)
