"""The parts of the command line that need no server: settings, doctor, output, what is given."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.checks import ROOT
from deploy.cli.given_json import json_given, object_given
from deploy.client.connection import Connection
from deploy.client.where import connect
from deploy.doctor.disk import file_system, look_at_directory
from deploy.doctor.finding import Level
from deploy.doctor.machine import look_at_descriptors
from deploy.doctor.network import look_at_port
from deploy.payloads.samples import all_samples, find_sample
from deploy.receiver.visible_text import json_text, visible
from schemas.errors import BadInput

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("HOOKTIDE")}


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        cwd=cwd,
        env={**CLEAN, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_config_show_says_where_each_value_comes_from_and_hides_secrets(tmp_path: Path) -> None:
    (tmp_path / "hooktide.toml").write_text("[api]\nport = 9000\n")
    key = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I="
    done = run(
        "config",
        "show",
        "--json",
        "--data",
        "here",
        cwd=tmp_path,
        HOOKTIDE__MASTER_KEY=key,
        HOOKTIDE__LOG__SHARDS="4",
    )
    shown = {one["name"]: (one["value"], one["origin"]) for one in json.loads(done.stdout)}

    assert done.returncode == 0
    assert shown["api.port"] == (9000, "hooktide.toml")
    assert shown["log.shards"] == (4, "HOOKTIDE__LOG__SHARDS")
    assert shown["data"] == ("here", "--data")
    assert shown["api.host"] == ("127.0.0.1", "default")
    assert shown["master_key"] == ("********", "HOOKTIDE__MASTER_KEY")
    assert key not in done.stdout


def test_config_check_names_every_mistake(tmp_path: Path) -> None:
    right = run("config", "check", cwd=tmp_path)
    wrong = run("config", "check", cwd=tmp_path, HOOKTIDE__API__PROT="1", HOOKTIDE__LOG__SHARDS="0")
    as_json = run("config", "check", "--json", cwd=tmp_path, HOOKTIDE__API__PROT="1")

    assert (right.returncode, wrong.returncode, as_json.returncode) == (0, 2, 2)
    assert "did you mean api.port?" in wrong.stderr
    assert "log.shards" in wrong.stderr
    assert json.loads(as_json.stdout)["ok"] is False


def test_doctor_finds_a_taken_port_and_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        taken.close()  # nobody listens: the address is free again
        free = look_at_port("127.0.0.1", port)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # bound and deaf: taken, and no Hooktide
        port = holder.getsockname()[1]
        done = run("doctor", "--json", cwd=tmp_path, HOOKTIDE__API__PORT=str(port))
    findings = {one["name"]: one for one in json.loads(done.stdout)["findings"]}

    assert free.level is Level.OK
    assert done.returncode == 1
    assert findings["port"]["level"] == "failed"
    assert str(port) in findings["port"]["advice"]
    assert findings["python"]["level"] == findings["loopback"]["level"] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_doctor_judges_the_disk_and_leaves_nothing_behind(tmp_path: Path) -> None:
    found = {one.name: one for one in look_at_directory(tmp_path / "not" / "yet")}

    assert found["data"].level is Level.OK
    assert "made at the first start" in found["data"].what
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert [one.level for one in look_at_directory(tmp_path / "file")] == [Level.FAILED]


def test_the_file_system_is_the_one_of_the_longest_mount_point() -> None:
    mounts = "a / ext4 rw 0 0\nb /data tmpfs rw 0 0\nc /data/my\\040disk nfs4 rw 0 0\n"

    assert file_system(Path("/home"), mounts) == "ext4"
    assert file_system(Path("/data/x"), mounts) == "tmpfs"
    assert file_system(Path("/data/my disk/x"), mounts) == "nfs4"
    assert file_system(Path("/database"), mounts) == "ext4"


def test_doctor_warns_when_descriptors_lower_the_slots() -> None:
    assert look_at_descriptors(1 << 16, 8).level in {Level.WARNING, Level.OK}
    assert look_at_descriptors(1, 8).level in {Level.OK, Level.FAILED}


def test_what_nobody_answers_is_a_sentence_and_code_3(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = run("endpoints", "list", "--url", f"http://127.0.0.1:{port}", "--key", "hk_x", cwd=tmp_path)

    assert done.returncode == 3
    assert done.stderr.startswith("hooktide: nothing answers at http://127.0.0.1:")
    assert "./hooktide up" in done.stderr
    assert done.stdout == ""


def test_a_missing_key_is_a_sentence_and_code_2(tmp_path: Path) -> None:
    done = run("tail", cwd=tmp_path)

    assert done.returncode == 2
    assert "HOOKTIDE_KEY" in done.stderr


def test_the_local_key_is_never_sent_to_another_machine(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("hk_" + "k" * 43 + "\n")

    assert connect("http://localhost:1", None, str(tmp_path)).url == "http://localhost:1"
    with pytest.raises(BadInput, match="another machine"):
        connect("https://hooks.example.com", None, str(tmp_path))


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8400", "ftp://a", "http://", "http://a:b", "http://a?b", "http://[::"]
)
def test_what_is_no_url_of_an_api_is_refused(url: str) -> None:
    with pytest.raises((BadInput, ValueError)):
        Connection(url, "hk_x")


def test_json_is_taken_as_text_from_a_file_and_keeps_its_spelling(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_bytes(b'{"n": 1.10}\n')

    assert json_given(str(file), "--data") == json_given(f"@{file}", "--data") == b'{"n": 1.10}\n'
    assert json_given('{"n": 1.10}', "--data") == b'{"n": 1.10}'
    for wrong in ("{", "@/no/such/file", "1} , {"):
        with pytest.raises(BadInput):
            json_given(wrong, "--data")
    with pytest.raises(BadInput, match="object"):
        object_given("[1]", "--set")


def test_samples_are_found_by_the_name_of_what_happened() -> None:
    assert find_sample("issues.opened") == find_sample("github.issues.opened")
    assert find_sample("issues").type.startswith("github.issues")
    assert len(all_samples()) > 200
    with pytest.raises(BadInput, match="issues"):
        find_sample("isues.opened")


def test_nothing_foreign_reaches_the_terminal() -> None:
    nasty = "a\x1b[2J\x9bb\u202ec\ud800é漢"

    assert visible(nasty).isprintable()
    assert visible(nasty).endswith("é漢")
    assert json.loads(json_text({"x": nasty, "y": "\U0001d173"})) == {"x": nasty, "y": "\U0001d173"}
    assert json_text(nasty, indent=None).isprintable()
