"""`up` that cannot start, or is told to end: one sentence, and the exit code of docs/settings.md."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from deploy.checks import ROOT
from tests.integration.conftest import MakeHooktide
from tests.integration.hooktide_process import HooktideProcess


def sentences(process: HooktideProcess) -> list[str]:
    return [line for line in process.log.splitlines() if line.startswith("hooktide: ")]


def test_a_directory_in_use_is_refused_and_the_owner_goes_on(hooktide: HooktideProcess) -> None:
    hooktide.start()
    second = HooktideProcess(hooktide.directory / "second")
    second.data = hooktide.data

    assert second.launch().wait() == 3

    assert len(sentences(second)) == 1, second.log
    assert f"in use by process {hooktide.process.pid}" in second.log
    assert hooktide.api("GET", "/readyz").status == 200


def test_a_taken_port_is_refused_before_a_directory_is_made(hooktide: HooktideProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert hooktide.launch(["--port", str(port)]).wait() == 3

    assert [f"port {port} on 127.0.0.1 cannot be taken" in line for line in sentences(hooktide)] == [True]
    assert not hooktide.data.exists()


def test_a_directory_that_cannot_be_made_is_refused(hooktide: HooktideProcess) -> None:
    hooktide.directory.mkdir()
    hooktide.data.write_text("a file")

    assert hooktide.launch().wait() == 3
    assert len(sentences(hooktide)) == 1, hooktide.log


def test_other_counts_than_the_directory_was_made_with_are_refused(hooktide: HooktideProcess) -> None:
    hooktide.start(env={"HOOKTIDE__LOG__SHARDS": "2"})
    assert hooktide.terminate() == 0, hooktide.log

    assert hooktide.launch(env={"HOOKTIDE__LOG__SHARDS": "4"}).wait() == 3
    assert "made with log.shards = 2" in sentences(hooktide)[0]


def test_every_wrong_setting_is_named_at_once(hooktide: HooktideProcess) -> None:
    hooktide.directory.mkdir()
    (hooktide.directory / "hooktide.toml").write_text("[api]\nprot = 1\n")

    assert hooktide.launch(env={"HOOKTIDE__EGRESS__SLOTS": "many"}).wait() == 2

    assert len(sentences(hooktide)) == 2, hooktide.log
    assert "api.prot (from hooktide.toml) is no setting; did you mean api.port?" in hooktide.log
    assert "egress.slots = 'many' (from HOOKTIDE__EGRESS__SLOTS)" in hooktide.log


def test_the_admin_key_is_kept_private_and_shown_by_its_command(hooktide: HooktideProcess) -> None:
    hooktide.start()

    key = run_cli("key", "show", "--data", str(hooktide.data))

    assert (key.returncode, key.stdout) == (0, hooktide.admin_key + "\n")
    assert (hooktide.data / "admin.key").stat().st_mode & 0o777 == 0o600
    assert hooktide.admin_key not in hooktide.greeting, "it would end in whatever keeps our output"
    assert hooktide.admin_key not in hooktide.log
    wrong = {"Authorization": "Bearer hk_wrong"}
    assert hooktide.api("GET", "webhooks/endpoints/ep_x", headers=wrong).status == 401


def test_a_directory_without_a_key_gets_none(tmp_path: Path) -> None:
    done = run_cli("key", "show", "--data", str(tmp_path / "typo"))

    assert done.returncode == 3
    assert not (tmp_path / "typo").exists()


def test_a_signal_while_starting_ends_it_gracefully(hooktide: HooktideProcess) -> None:
    hooktide.start()
    assert hooktide.terminate() == 0
    hooktide.launch()
    # The directory is locked early; from then on the handlers are in place.
    while (hooktide.data / "lock").read_text().strip() != str(hooktide.process.pid):
        assert hooktide.process.poll() is None, hooktide.log
    assert hooktide.terminate() == 0, hooktide.log


def test_two_processes_live_side_by_side(make_hooktide: MakeHooktide) -> None:
    one, other = make_hooktide("one").launch(), make_hooktide("other").launch()
    for process in (one, other):
        process.await_ready()

    assert one.url != other.url
    one.process.send_signal(signal.SIGINT)
    assert one.wait() == 0
    assert other.api("GET", "/readyz").status == 200


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
        timeout=20,
    )
