"""The delivery log in process: the contract, and what only a library over a directory can get wrong."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import count as numbers
from pathlib import Path

import pytest

from dataflows.connectors.delivery_log import migrations
from dataflows.connectors.delivery_log.chdb import READERS, ChdbLog
from dataflows.connectors.delivery_log.native import column
from schemas.errors import BadSettings, DirectoryInUse, FormatMismatch, StoreUnavailable
from tests.conformance.delivery_log_contract import DEFAULTS, DeliveryLogContract, get, put

ROOT = Path(__file__).parents[2]
_databases = numbers()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The one directory that this process may have open; each test has a database of its own in it."""
    path = tmp_path_factory.mktemp("delivery_log") / "a b'c{1,2}*é"
    keeper = ChdbLog(path)
    yield path
    keeper.close()


@pytest.fixture
def log(directory: Path) -> Iterator[ChdbLog]:
    opened = ChdbLog(directory, f"test_{next(_databases)}")
    opened.migrate()
    yield opened
    opened.close()


class TestChdb(DeliveryLogContract):
    """The contract, in process."""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own, at the root of the tree."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


INSERT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from dataflows.connectors.delivery_log.chdb import ChdbLog
from tests.conformance.delivery_log_contract import put
log = ChdbLog(Path(sys.argv[1]))
log.migrate()
for block in range(int(sys.argv[2])):
    put(log, "transitions", *[{"epoch": block, "sequence": i} for i in range(3)])
    print(block, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
READ = """
import sys
from pathlib import Path
from dataflows.connectors.delivery_log.chdb import ChdbLog
log = ChdbLog(Path(sys.argv[1]))
print(log.migrate(), log.query("SELECT count() AS n, uniqExact(epoch, sequence) AS u FROM transitions"))
log.close()
"""
OPEN = """
import sys
from pathlib import Path
from dataflows.connectors.delivery_log.chdb import ChdbLog
try:
    ChdbLog(Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_what_insert_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    died = run(INSERT_AND_DIE, str(tmp_path / "log"), "20")
    assert died.returncode == -9, died.stderr
    assert died.stdout.split() == [str(block) for block in range(20)]
    assert run(READ, str(tmp_path / "log")).stdout == "[] [{'n': 60, 'u': 60}]\n"


def test_another_process_is_told_that_the_directory_is_in_use(directory: Path) -> None:
    assert run(OPEN, str(directory)).stdout.startswith(
        f"DirectoryInUse another process has the delivery log {directory} open"
    )


def test_a_second_directory_in_one_process_is_refused_by_name(directory: Path, tmp_path: Path) -> None:
    assert directory.exists()
    with pytest.raises(DirectoryInUse, match="one a process"):
        ChdbLog(tmp_path / "other")


def test_a_directory_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(StoreUnavailable, match="cannot be made"):
        ChdbLog(tmp_path / "file" / "log")


def test_a_damaged_directory_is_said_so(tmp_path: Path) -> None:
    assert run(INSERT_AND_DIE, str(tmp_path), "1").returncode == -9
    next((tmp_path / "store").rglob("events.sql")).write_text("garbage")
    answer = run(OPEN, str(tmp_path)).stdout
    assert answer.startswith("StoreUnavailable"), answer


def test_a_path_that_the_library_would_read_as_options_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="choose another"):
        ChdbLog(tmp_path / "what?mode=ro")


def test_a_query_ends_at_its_time_limit_and_the_connection_goes_on(log: ChdbLog) -> None:
    with pytest.raises(StoreUnavailable, match="TIMEOUT"):
        log.query("SELECT count() AS n FROM numbers(100000000000) SETTINGS max_execution_time = 0.2")
    assert log.query("SELECT 1 AS one") == [{"one": 1}]


def test_what_a_failed_query_had_answered_is_not_seen_by_the_next_one(log: ChdbLog) -> None:
    for _ in range(2 * READERS):
        with pytest.raises(StoreUnavailable):
            log.query("SELECT number, throwIf(number = 900000) FROM numbers(1000000)")
        with pytest.raises(StoreUnavailable, match="TIMEOUT"):
            log.query("SELECT count() AS n FROM numbers(100000000000) SETTINGS max_execution_time = 0.01")
    for _ in range(2 * READERS):
        assert log.query("SELECT 1 AS one") == [{"one": 1}]


def test_a_query_ends_at_its_memory_limit(log: ChdbLog) -> None:
    with pytest.raises(StoreUnavailable, match="MEMORY"):
        log.query("SELECT length(groupArray(number)) AS n FROM numbers(1000000000)")


def test_a_closed_log_says_so_and_the_directory_opens_again(directory: Path) -> None:
    first = ChdbLog(directory, "reopened")
    first.migrate()
    put(first, "events", {})
    first.close()
    first.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        first.query("SELECT 1")
    with pytest.raises(StoreUnavailable, match="closed"):
        put(first, "events", {})
    second = ChdbLog(directory, "reopened")
    assert second.migrate() == []
    assert get(second, "events", "event_id") == [DEFAULTS["events"]]
    second.close()


def test_a_changed_or_unknown_migration_refuses(log: ChdbLog, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = migrations.migrations()
    for others in ([wanted[0]._replace(checksum="other"), *wanted[1:]], wanted[:-1]):
        with monkeypatch.context() as patched:
            patched.setattr(migrations, "migrations", lambda others=others: others)
            with pytest.raises(FormatMismatch):
                log.migrate()
    assert log.migrate() == []


def test_a_migration_that_died_before_it_was_noted_is_applied_again(log: ChdbLog) -> None:
    noted: list[str] = []

    def die(_name: str, _checksum: str) -> None:
        raise StoreUnavailable("killed")

    added = [
        *migrations.migrations(),
        migrations.Migration("0099_more", "x", "CREATE TABLE IF NOT EXISTS more (a UInt8) ENGINE = Memory"),
    ]
    with pytest.raises(StoreUnavailable):
        migrations.apply(added, log._execute, log.query, die)
    assert migrations.apply(added, log._execute, log.query, lambda name, _: noted.append(name)) == [
        "0099_more"
    ]
    assert noted == ["0099_more"]


def test_no_statement_of_ours_needs_a_type_that_has_no_encoding(log: ChdbLog) -> None:
    types = log.query(
        "SELECT DISTINCT type FROM system.columns WHERE database = currentDatabase() AND default_kind = ''"
    )
    assert len(types) > 5
    for row in types:
        column("any", row["type"])
    with pytest.raises(ValueError, match="no encoding"):
        column("any", "Map(String, String)")


def test_expired_rows_and_months_have_a_rule_in_every_table(log: ChdbLog) -> None:
    tables = log.query(
        "SELECT name, create_table_query AS made FROM system.tables WHERE database = currentDatabase() "
        "AND name != 'schema_migrations' ORDER BY name"
    )
    assert [row["name"] for row in tables] == [
        "attempts",
        "dead_letters",
        "deliveries",
        "events",
        "transitions",
    ]
    for row in tables:
        days = 30 if row["name"] == "dead_letters" else 90
        assert f"toIntervalDay({days})" in row["made"]
        assert "PARTITION BY toYYYYMM(" in row["made"]
        assert "ReplacingMergeTree" in row["made"]


INSERT_AND_MEASURE = """
import sys
from pathlib import Path
from dataflows.connectors.delivery_log.chdb import ChdbLog
from tests.conformance.delivery_log_contract import put
log = ChdbLog(Path(sys.argv[1]))
log.migrate()
for block in range(30):
    put(log, "attempts", *[{"epoch": block, "sequence": i, "delivery_id": f"dlv_{i}"} for i in range(1000)])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark from /proc")
def test_the_process_stays_small(tmp_path: Path) -> None:
    ran = run(INSERT_AND_MEASURE, str(tmp_path / "log"))
    assert int(ran.stdout) < 350_000, ran.stderr
