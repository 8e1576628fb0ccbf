"""`up` that cannot start, or cannot go on: one sentence, and the exit code of docs/settings.md."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from dataflows.connectors.data_directory import DataDirectory
from dataflows.connectors.log.local import LocalLog
from dataflows.connectors.log.port import Entry, TopicPartition
from deploy.checks import ROOT
from deploy.process.clock import is_kept_in_step_by_ntp
from deploy.process.embedded_parts import partition_counts
from deploy.receiver.receiver import ReceiverThread
from schemas.settings import Settings
from schemas.topics import ENDPOINT_STATUS
from tests.integration.hooktide_process import HooktideProcess, await_events


def sentences(process: HooktideProcess) -> list[str]:
    return [line for line in process.log.splitlines() if line.startswith("hooktide: ")]


def test_a_directory_in_use_is_refused_with_its_owner(hooktide: HooktideProcess) -> None:
    owner = DataDirectory.open(hooktide.data, shards=8, events_partitions=8, now_ms=1)
    try:
        assert hooktide.launch().wait() == 3
    finally:
        owner.close()

    assert len(sentences(hooktide)) == 1, hooktide.log
    assert f"in use by process {os.getpid()}" in hooktide.log


def test_other_counts_than_the_directory_was_made_with_are_refused(hooktide: HooktideProcess) -> None:
    DataDirectory.open(hooktide.data, shards=2, events_partitions=8, now_ms=1).close()

    assert hooktide.launch(env={"HOOKTIDE__LOG__SHARDS": "4"}).wait() == 3

    assert "made with log.shards = 2" in sentences(hooktide)[0]


def test_a_taken_port_is_refused_before_a_directory_is_made(hooktide: HooktideProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert hooktide.launch(["--port", str(port)]).wait() == 3

    assert [f"port {port} on 127.0.0.1 cannot be taken" in line for line in sentences(hooktide)] == [True]
    assert not hooktide.data.exists()


def test_a_directory_that_cannot_be_made_is_refused(hooktide: HooktideProcess) -> None:
    hooktide.data.parent.mkdir()
    hooktide.data.write_text("a file")

    assert hooktide.launch().wait() == 3

    assert len(sentences(hooktide)) == 1, hooktide.log


def test_every_wrong_setting_is_named_at_once(hooktide: HooktideProcess) -> None:
    hooktide.directory.mkdir()
    (hooktide.directory / "hooktide.toml").write_text("[api]\nprot = 1\n")

    assert hooktide.launch(env={"HOOKTIDE__EGRESS__SLOTS": "many"}).wait() == 2

    assert len(sentences(hooktide)) == 2, hooktide.log
    assert "api.prot (from hooktide.toml) is no setting; did you mean api.port?" in hooktide.log
    assert "egress.slots = 'many' (from HOOKTIDE__EGRESS__SLOTS)" in hooktide.log


def test_the_admin_key_is_kept_private_and_shown_by_its_command(hooktide: HooktideProcess) -> None:
    hooktide.start()

    shown = run_cli("key", "show", "--data", str(hooktide.data))

    assert (shown.returncode, shown.stdout) == (0, hooktide.admin_key + "\n")
    assert (hooktide.data / "admin.key").stat().st_mode & 0o777 == 0o600
    assert hooktide.admin_key not in hooktide.greeting, "it would end in whatever keeps our output"
    wrong = {"Authorization": "Bearer hk_wrong"}
    assert hooktide.api("GET", "webhooks/endpoints/ep_x", headers=wrong).status == 401
    hooktide.process.send_signal(signal.SIGINT)
    assert hooktide.wait() == 0
    assert hooktide.admin_key not in hooktide.log


def test_a_directory_without_a_key_gets_none(tmp_path: Path) -> None:
    shown = run_cli("key", "show", "--data", str(tmp_path / "typo"))

    assert shown.returncode == 3
    assert "holds no admin key" in shown.stderr
    assert not (tmp_path / "typo").exists()


def test_a_signal_while_starting_ends_it_gracefully(hooktide: HooktideProcess) -> None:
    hooktide.launch()
    # The directory is locked early; from then on the handlers are in place.
    while not (hooktide.data / "lock").exists():
        assert hooktide.process.poll() is None, hooktide.log

    assert hooktide.terminate() == 0, hooktide.log


def test_a_clock_behind_its_own_records_is_refused_unless_ntp_keeps_it(hooktide: HooktideProcess) -> None:
    DataDirectory.open(hooktide.data, shards=8, events_partitions=8, now_ms=1).close()
    in_an_hour_ms = time.time_ns() // 1_000_000 + 3_600_000
    log = LocalLog.open(
        hooktide.data / "log", partitions=partition_counts(Settings()), clock_ms=lambda: in_an_hour_ms
    )
    log.append_and_wait(TopicPartition(ENDPOINT_STATUS.name, 0), [Entry(b"ep_1", None)])
    log.close()

    if is_kept_in_step_by_ntp():  # then the record is wrong, and the clock is right
        hooktide.start()
        assert hooktide.terminate() == 0, hooktide.log
    else:
        assert hooktide.launch().wait() == 3, hooktide.log
        assert [("59 minutes later" in line, "NTP" in line) for line in sentences(hooktide)] == [(True, True)]


def test_a_lost_shard_store_is_refused_until_a_person_says_rebuild(hooktide: HooktideProcess) -> None:
    with ReceiverThread() as receiver:
        hooktide.start()
        hooktide.create_endpoint(receiver.url)
        before = [hooktide.publish({"n": number})["id"] for number in range(3)]
        assert len(receiver.wait_for(3, 15)) == 3, hooktide.log
        assert hooktide.terminate() == 0, hooktide.log
        for store in (hooktide.data / "shards").iterdir():
            shutil.rmtree(store)

        assert hooktide.launch().wait() == 3
        assert len(sentences(hooktide)) == 1, hooktide.log
        assert "--rebuild" in hooktide.log

        hooktide.start(["--rebuild"])
        after = hooktide.publish({"n": "after"})["id"]
        receiver.wait_for(4, 15)
        assert hooktide.terminate() == 0, hooktide.log
        assert [arrival.webhook_id for arrival in receiver.arrivals] == [*before, after]


def test_a_part_that_dies_takes_the_process_with_it_and_loses_nothing(hooktide: HooktideProcess) -> None:
    with ReceiverThread() as receiver:
        hooktide.start()
        hooktide.create_endpoint(receiver.url)
        accepted = hooktide.publish({"n": 1})["id"]
        receiver.wait_for(1, 15)
        # From now on no file can be written, as on a full disk; not even the log lines.
        _, hard = resource.prlimit(hooktide.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(hooktide.process.pid, resource.RLIMIT_FSIZE, (0, hard))
        refused = hooktide.api(
            "POST", "events", {"tenant_id": "acme", "type": "order.created", "data": {"n": 2}}
        )

        assert refused.status == 503
        assert hooktide.wait() == 1, hooktide.log

        hooktide.start()
        later = hooktide.publish({"n": 3})["id"]
        # The publish that got the 503 may have happened or not: that is what the answer says.
        assert await_events(receiver, {accepted, later}) >= {accepted, later}, hooktide.log
        assert hooktide.terminate() == 0, hooktide.log


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
        timeout=20,
    )
