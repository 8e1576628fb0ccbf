"""`demo`: it starts everything itself, both sides agree, and a receiver that miscounts is found out."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from deploy.checks import ROOT
from tests.integration.hooktide_process import HooktideProcess

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("HOOKTIDE")}


def run_demo(cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", "demo", "--events", "12", *arguments],
        cwd=cwd,
        env={**CLEAN, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "TMPDIR": str(cwd), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_both_sides_agree_and_nothing_is_left_behind(tmp_path: Path) -> None:
    done = run_demo(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "No difference" in done.stdout
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_is_ended_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.cli", "demo", "--events", "1000"]
    environment = {**CLEAN, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        assert "Starting" in demo.stdout.readline()
        assert "published" in demo.stdout.readline()
        child = next(tmp_path.glob("*/data/lock")).read_text().strip()
        demo.terminate()
        demo.communicate(timeout=40)

    assert demo.returncode == 128 + signal.SIGTERM
    assert not Path("/proc", child).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_receiver_that_miscounts_is_found_out_on_a_hooktide_that_runs(hooktide: HooktideProcess) -> None:
    hooktide.start()
    at = {"HOOKTIDE_URL": hooktide.url, "HOOKTIDE_KEY": hooktide.admin_key}
    good = run_demo(hooktide.directory, "--json", **at)
    bad = run_demo(hooktide.directory, "--json", "--miscount", "1", "--seed", "2", **at)

    assert good.returncode == 0, good.stdout + good.stderr
    told = json.loads(good.stdout)
    assert told["differences"] == []
    assert set(told["endpoints"]) == {"healthy", "slow", "failing"}
    assert told["endpoints"]["failing"]["dead_lettered"] > 0
    assert (
        told["endpoints"]["failing"]["requests_received"] > told["endpoints"]["healthy"]["requests_received"]
    )
    assert bad.returncode == 1
    assert len(json.loads(bad.stdout)["differences"]) >= 1
    assert hooktide.api("GET", "webhooks/endpoints").json["data"] == []
