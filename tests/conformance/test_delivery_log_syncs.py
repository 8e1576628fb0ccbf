"""A row that the delivery log took survives a power cut: files and names are synced before it says so."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.checks import ROOT
from tests.conformance.disk_after_power_cut import TRACED
from tests.conformance.system_calls import SYNCS, Call, read_trace, traced

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("strace")]

INSERTING = """
import os, sys
from pathlib import Path
from dataflows.connectors.delivery_log.chdb import ChdbLog
from tests.conformance.delivery_log_contract import put
log = ChdbLog(Path(sys.argv[1]))
log.migrate()
os.write(1, b"begin\\n")
for number in range(3):
    put(log, "transitions", {"delivery_id": f"dlv_{number}"})
    os.write(1, b"inserted\\n")
os._exit(0)
"""


@pytest.fixture(scope="module")
def inserts(tmp_path_factory: pytest.TempPathFactory) -> list[list[Call]]:
    """The calls of each of three inserts."""
    directory = tmp_path_factory.mktemp("delivery-log")
    trace = directory / "trace"
    command = [sys.executable, "-c", INSERTING, str(directory / "log")]
    subprocess.run(
        traced(command, trace, TRACED), cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=50
    )
    found: list[list[Call]] = []
    for call in read_trace(trace):
        if call.descriptor == 1 and call.data in {b"begin\n", b"inserted\n"}:
            found.append([])
        elif found:
            found[-1].append(call)
    return found[:3]


def test_every_file_of_a_part_is_synced_after_its_last_write(inserts: list[list[Call]]) -> None:
    """Of merges nothing is asked: ClickHouse keeps the inserted parts for 8 minutes after a merge of them."""
    for calls in inserts:
        written = {
            call.target: call.ended
            for call in calls
            if call.name == "write" and "/store/" in call.target and "/tmp_merge_" not in call.target
        }
        assert len(written) > 5
        for file, ended in written.items():
            assert any(_syncs(call, file) and call.began > ended for call in calls), file


def test_the_name_of_a_part_is_synced_after_its_renaming(inserts: list[list[Call]]) -> None:
    for calls in inserts:
        renames = [call for call in calls if call.name == "rename" and b"/tmp_insert_" in call.texts[0]]
        assert len(renames) == 1
        table = str(Path(renames[0].texts[1].decode()).parent)
        assert any(_syncs(call, table) and call.began > renames[0].ended for call in calls), table


def _syncs(call: Call, target: str) -> bool:
    return call.name in SYNCS and call.target == target and call.result == 0
