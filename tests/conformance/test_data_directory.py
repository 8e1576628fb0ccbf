"""The data directory belongs to one process, keeps what was fixed, and fills nothing foreign."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from dataflows.connectors.data_directory import (
    ADMIN_KEY_FILE,
    FORMAT_FILE,
    LOCK_FILE,
    DataDirectory,
    admin_key,
    create_private_file,
)
from schemas.errors import DamagedStore, DirectoryInUse, FormatMismatch, StoreUnavailable

ROOT = Path(__file__).parents[2]
NOW_MS = 1_700_000_000_000


def opened(path: Path, shards: int = 8, events_partitions: int = 4, now_ms: int = NOW_MS) -> DataDirectory:
    return DataDirectory.open(path, shards=shards, events_partitions=events_partitions, now_ms=now_ms)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_private_with_what_was_fixed(tmp_path: Path) -> None:
    directory = opened(tmp_path / "a" / "b")
    assert directory.path == tmp_path / "a" / "b"
    assert mode(directory.path) == 0o700
    assert mode(directory.path / FORMAT_FILE) == 0o600
    stored = msgspec.json.decode((directory.path / FORMAT_FILE).read_bytes())
    assert stored == {"version": 1, "created_at_ms": NOW_MS, "shards": 8, "events_partitions": 4}
    directory.close()
    again = opened(tmp_path / "a" / "b", now_ms=NOW_MS + 99)
    assert again.format.created_at_ms == NOW_MS
    again.close()


def test_an_existing_empty_directory_is_taken_and_made_private(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    create_private_file(tmp_path / ADMIN_KEY_FILE, b"hk_placed before\n")
    tmp_path.chmod(0o755)
    opened(tmp_path).close()
    assert mode(tmp_path) == 0o700


def test_a_second_opener_is_told_the_holder(tmp_path: Path) -> None:
    directory = opened(tmp_path / "data")
    with pytest.raises(DirectoryInUse, match=rf"in use by process {os.getpid()};"):
        opened(tmp_path / "data")
    directory.close()
    directory.close()
    opened(tmp_path / "data").close()


def test_another_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import sys, signal; from pathlib import Path; from dataflows.connectors.data_directory import *\n"
        "held = DataDirectory.open(Path(sys.argv[1]), shards=8, events_partitions=4, now_ms=1)\n"
        "print('held', flush=True); signal.pause()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "data")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(DirectoryInUse, match=f"process {child.pid};"):
            opened(tmp_path / "data")
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    opened(tmp_path / "data").close()
    assert (tmp_path / "data" / LOCK_FILE).read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize(
    ("shards", "events_partitions", "said"),
    [
        (64, 4, r"log\.shards = 8, the settings say 64"),
        (8, 5, r"log\.events_partitions = 4, the settings say 5"),
    ],
)
def test_other_counts_refuse_and_name_both(
    tmp_path: Path, shards: int, events_partitions: int, said: str
) -> None:
    opened(tmp_path / "data").close()
    with pytest.raises(FormatMismatch, match=said):
        opened(tmp_path / "data", shards, events_partitions)
    opened(tmp_path / "data").close()  # the refusal left no lock behind


def test_a_newer_format_and_a_damaged_one_refuse(tmp_path: Path) -> None:
    opened(tmp_path / "data").close()
    file = tmp_path / "data" / FORMAT_FILE
    file.write_text('{"version":2,"created_at_ms":1,"shards":8,"events_partitions":4}')
    with pytest.raises(FormatMismatch, match="format 2"):
        opened(tmp_path / "data")
    file.write_text('{"version":1,')
    with pytest.raises(DamagedStore):
        opened(tmp_path / "data")


def test_a_directory_of_something_else_is_not_filled(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    tmp_path.chmod(0o755)
    with pytest.raises(FormatMismatch, match=r"thesis\.tex"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert mode(tmp_path) == 0o755


def test_a_crash_before_the_format_file_is_healed(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("1\n")
    (tmp_path / (FORMAT_FILE + ".unfinished")).write_text('{"vers')
    opened(tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [FORMAT_FILE, LOCK_FILE]


def test_what_cannot_be_a_directory_is_unavailable_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        with pytest.raises(
            StoreUnavailable, match=f"the data directory {path} cannot be used: .*; name another"
        ):
            opened(path)


class TestAdminKey:
    def test_it_is_made_once_and_private(self, tmp_path: Path) -> None:
        key, is_new = admin_key(tmp_path)
        assert is_new
        assert key.startswith("hk_")
        assert len(key) == 46
        assert mode(tmp_path / ADMIN_KEY_FILE) == 0o600
        assert admin_key(tmp_path) == (key, False)
        assert [path.name for path in tmp_path.iterdir()] == [ADMIN_KEY_FILE]

    def test_two_directories_have_two_keys(self, tmp_path: Path) -> None:
        for name in "ab":
            (tmp_path / name).mkdir()
        assert admin_key(tmp_path / "a") != admin_key(tmp_path / "b")

    @pytest.mark.parametrize(
        "content", ["", "\n", "hk_short", "x" * 60, "hk_" + "x" * 20 + "\x00" + "x" * 30]
    )
    def test_a_file_without_a_key_is_said_and_not_replaced(self, tmp_path: Path, content: str) -> None:
        (tmp_path / ADMIN_KEY_FILE).write_text(content)
        with pytest.raises(DamagedStore, match="delete it"):
            admin_key(tmp_path)
        assert (tmp_path / ADMIN_KEY_FILE).read_text() == content

    def test_a_directory_that_is_not_there_is_unavailable(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable):
            admin_key(tmp_path / "no")


def test_a_private_file_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "key.unfinished").write_text("half of an older")
    create_private_file(tmp_path / "key", b"whole")
    assert (tmp_path / "key").read_bytes() == b"whole"
    assert mode(tmp_path / "key") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
