"""`./hooktide` itself, run by the real shell in a copy of the tree. Only `uv` and its network are played.

The played `uv` makes an environment whose Python is the one that runs this test; the copy's command line
tells what it was given. So every start below is a whole start, and takes milliseconds.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.checks import ROOT

PYTHON_NAME = f"python3.{sys.version_info.minor}"
PYTHON = Path(sysconfig.get_config_var("BINDIR")) / PYTHON_NAME
TOOLS = "sh awk cat chmod cksum cp df dirname flock ln mkdir mv readlink rm sleep uname"
TELL = "import json, os, sys\nprint(json.dumps([sys.argv[1:], os.getcwd(), __file__]))\n"
UV = """#!/bin/sh
if [ "$1" = --version ]; then echo "uv 0.13.9 (played)"; exit; fi
echo "$@" >> "$CALLS"
until [ -e "${UV_WAITS_FOR:-/}" ]; do sleep 0.02; done
[ -z "${UV_FAILS-}" ] || { echo "error: no route" >&2; exit 2; }
while [ "$1" != --python ]; do shift; done
mkdir -p "$UV_PROJECT_ENVIRONMENT/bin"
cd "$UV_PROJECT_ENVIRONMENT"
ln -sf "$2" bin/python
echo "home = ${2%/*}" > pyvenv.cfg
case "$*" in *"--group dev"*) : > bin/pytest; chmod +x bin/pytest ;; esac
"""


@dataclass
class House:
    """A copy of the launcher, with a PATH on which only what a test put there can be found."""

    root: Path
    path: Path

    @property
    def calls(self) -> list[str]:
        """What the played `uv` was asked to do, one line per call."""
        record = self.root.parent / "calls"
        return record.read_text().splitlines() if record.exists() else []

    def environment(self, **extra: str) -> dict[str, str]:
        home = self.root.parent
        return {"PATH": str(self.path), "HOME": str(home), "CALLS": str(home / "calls"), **extra}

    def start(
        self, *arguments: str, launcher: Path | None = None, cwd: Path | None = None, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [launcher or self.root / "hooktide", *arguments],
            cwd=cwd or self.root.parent,
            env=self.environment(**extra),
            text=True,
            capture_output=True,
            check=False,
        )

    def script(self, name: str, text: str, directory: Path | None = None) -> None:
        file = (directory or self.path) / name
        file.parent.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(0o755)


@pytest.fixture
def house(tmp_path: Path) -> House:
    root, path = tmp_path / "a clone", tmp_path / "bin"
    (root / "deploy" / "cli").mkdir(parents=True)
    (root / "deploy" / "cli" / "__main__.py").write_text(TELL)
    shutil.copy(ROOT / "hooktide", root)
    (root / "uv.lock").write_text("version = 1\n")
    path.mkdir()
    for tool in TOOLS.split():
        found = shutil.which(tool)
        if found is not None:
            (path / tool).symlink_to(found)
    house = House(root, path)
    house.script(PYTHON_NAME, f'#!/bin/sh\nexec "{PYTHON}" "$@"\n')
    house.script("uv", UV)
    return house


def told(done: subprocess.CompletedProcess[str]) -> tuple[Sequence[str], str, str]:
    assert done.returncode == 0, done.stderr
    arguments, cwd, file = json.loads(done.stdout)
    return arguments, cwd, file


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_the_first_start_syncs_from_the_lock_and_says_what_it_costs(house: House) -> None:
    done = house.start("up", "--data", "a b")

    assert told(done)[0] == ["up", "--data", "a b"]
    assert len(house.calls) == 1
    assert "sync" in house.calls[0]
    assert "--frozen" in house.calls[0]
    assert "--no-dev" in house.calls[0]
    assert "first start: installing into .venv" in done.stderr
    assert "MB on disk" in done.stderr


def test_the_second_start_calls_no_uv_and_says_nothing(house: House) -> None:
    house.start("up")
    house.script("uv", "#!/bin/sh\necho called >&2\nexit 1\n")
    house.script(PYTHON_NAME, "#!/bin/sh\nexit 127\n")

    done = house.start("up")

    assert told(done)[0] == ["up"]
    assert done.stderr == ""
    assert len(house.calls) == 1


def test_it_starts_through_a_chain_of_links_and_stays_in_the_callers_directory(house: House) -> None:
    elsewhere = house.root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "absolute").symlink_to(house.root / "hooktide")
    (elsewhere / "relative").symlink_to("absolute")

    _, cwd, file = told(house.start(launcher=elsewhere / "relative", cwd=elsewhere))

    assert cwd == str(elsewhere)
    assert file == str(house.root / "deploy" / "cli" / "__main__.py")


def test_folders_and_variables_of_the_caller_do_not_reach_us(house: House) -> None:
    theirs = house.root.parent / "theirs"
    (theirs / "deploy" / "cli").mkdir(parents=True)
    (theirs / "deploy" / "cli" / "__main__.py").write_text("raise SystemExit('the wrong one')")
    odd, odder = str(theirs), "/nowhere"

    first, second = (
        house.start(cwd=theirs, PYTHONPATH=odd, PYTHONHOME=odder, VIRTUAL_ENV=odder, UV_PYTHON="2.7")
        for _ in range(2)
    )

    assert told(first)[2] == told(second)[2] == str(house.root / "deploy" / "cli" / "__main__.py")


def test_a_shim_that_does_not_run_is_passed_over_for_a_python_further_on(house: House) -> None:
    shims = house.root.parent / "shims"
    for name in ("python3.11", "python3.12"):
        house.script(name, "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n", shims)

    done = house.start(PATH=f"{shims}:{house.path}")

    assert told(done)[0] == []
    assert str(PYTHON) in house.calls[0]


def test_an_environment_whose_python_is_gone_is_made_again(house: House) -> None:
    house.start()
    (house.root / ".venv" / "bin" / "python").unlink()
    (house.root / ".venv" / "bin" / "python").symlink_to("/nowhere/python3.11")

    told(house.start())

    assert len(house.calls) == 2


def test_without_a_python_that_fits_one_sentence_says_what_was_found(house: House) -> None:
    (house.path / PYTHON_NAME).unlink()
    house.script("python3", "#!/bin/sh\necho 3.13 /usr/bin/python3.13\n")

    said = sentence(house.start("up"))

    assert said.startswith("hooktide: no Python 3.11 or 3.12 that runs is on the PATH (")
    assert "is 3.13" in said
    assert "apt-get install" in said


def test_the_development_group_is_added_once_and_survives_a_new_lock(house: House) -> None:
    house.start("up")
    house.start("test")
    house.start("up")
    house.start("test-deps")
    assert ["--group dev" in call for call in house.calls] == [False, True]

    (house.root / "uv.lock").write_text("version = 2\n")
    told(house.start("up"))
    told(house.start("test"))

    assert ["--group dev" in call for call in house.calls] == [False, True, True]


@pytest.mark.parametrize("has_flock", [True, False])
def test_starts_at_the_same_time_sync_once(house: House, *, has_flock: bool) -> None:
    if not has_flock:
        (house.path / "flock").unlink()
    go = house.root.parent / "go"
    environment = house.environment(UV_WAITS_FOR=str(go))
    said = [house.root.parent / f"said.{number}" for number in range(3)]
    starts = []
    for file in said:
        with file.open("w") as stderr:
            starts.append(
                subprocess.Popen([house.root / "hooktide"], env=environment, stdout=-1, stderr=stderr)
            )
    while sum("waiting for it" in file.read_text() for file in said) < len(starts) - 1:
        assert all(start.poll() is None for start in starts), [file.read_text() for file in said]
    go.touch()
    for start in starts:
        start.communicate()

    assert [start.returncode for start in starts] == [0, 0, 0]
    assert len(house.calls) == 1
    assert not (house.root / ".tools" / "lock.d").exists()


@pytest.mark.parametrize("owner", ["dead", "nobody yet"])
def test_a_lock_left_by_a_dead_start_is_taken_over(house: House, owner: str) -> None:
    (house.path / "flock").unlink()
    lock = house.root / ".tools" / "lock.d"
    lock.mkdir(parents=True)
    if owner == "dead":
        gone = subprocess.Popen(["true"])
        gone.wait()
        (lock / "pid").write_text(f"{gone.pid}\n")
    house.script("sleep", "#!/bin/sh\n")

    told(house.start())

    assert not lock.exists()


def test_a_failed_sync_leaves_no_stamp_and_says_what_to_do(house: House) -> None:
    said = sentence(house.start(UV_FAILS="1"))

    assert "uv could not fetch what Hooktide needs" in said
    assert "check the network" in said
    told(house.start())
    assert len(house.calls) == 2


def test_a_disk_without_room_is_refused_before_the_sync(house: House) -> None:
    house.script("df", "#!/bin/sh\nprintf 'Filesystem\\nnone 100000 97952 2048 98%% /\\n'\n")

    said = sentence(house.start())

    assert "where only 2 MB are free" in said
    assert house.calls == []


def test_an_old_uv_is_not_used_and_pip_brings_the_pinned_one(house: House) -> None:
    house.script("uv", '#!/bin/sh\n[ "$1" != --version ] || echo "uv 0.4.30"\n')
    fetch = f"""#!/bin/sh
case "$*" in
    *"pip --version") exit 0 ;;
    *"pip install"*) while [ "$1" != --target ]; do shift; done
        mkdir -p "$2/bin"; cp "{house.root.parent}/played" "$2/bin/uv"; echo "pip $3" >> "$CALLS" ;;
    *) exec "{PYTHON}" "$@" ;;
esac
"""
    house.script("played", UV, house.root.parent)
    house.script("true-python", fetch)
    # sys._base_executable names the real interpreter, so the script answers for itself.
    probe = f'#!/bin/sh\ncase "$*" in *sys._base_executable*) echo "3.11 {house.path}/true-python" ;; esac\n'
    house.script(PYTHON_NAME, probe)

    first = house.start()
    (house.root / "uv.lock").write_text("version = 2\n")
    told(house.start())

    assert "fetching uv" in first.stderr
    assert [call.split()[0] for call in house.calls] == ["pip", "sync", "sync"]
    assert house.calls[0].startswith("pip uv==0.")


def test_the_launcher_is_plain_posix_sh_and_executable() -> None:
    shell = shutil.which("dash") or shutil.which("sh")
    assert shell is not None
    assert subprocess.run([shell, "-n", ROOT / "hooktide"], check=False).returncode == 0
    assert os.access(ROOT / "hooktide", os.X_OK)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
