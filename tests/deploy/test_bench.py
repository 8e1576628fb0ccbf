"""The benchmarks run: each stage on a small count, its figures for people and for machines."""

import json

import pytest

from deploy.bench.suite import CASES, run_suite


@pytest.mark.timeout(180)
def test_every_stage_gives_a_figure(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_suite([], 1_000, as_json=True) == 0
    document = json.loads(capfd.readouterr().out)
    assert [figure["stage"] for figure in document["figures"]] == [stage for stage, _, _ in CASES]
    for figure in document["figures"]:
        assert figure["count"] == 1_000
        assert figure["cpu_us"] > 0
        assert figure["cpu_us"] == pytest.approx(figure["user_us"] + figure["sys_us"])
    assert document["machine"]["cores"] >= 1


def test_a_stage_that_is_not_there_is_named_with_those_that_are(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_suite(["engin"], None, as_json=False) == 2
    assert "no stage engin; there are api, deliver, engine" in capfd.readouterr().err
