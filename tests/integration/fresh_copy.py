"""A fresh copy of this tree, as a clone is, whose `.venv` leads to the Python that runs the tests.

What git ignores stays out of it; what is not committed yet comes along. The stamp says that the environment
is up to date, so `./hooktide` starts at once and never touches an environment that is not its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.checks import ROOT

LIST_FILES = ("git", "ls-files", "-coz", "--exclude-standard")
PACKED_ALONG = shutil.ignore_patterns(
    ".git", ".venv", ".tools", ".*cache*", ".hypothesis", "node_modules", "site"
)


def copy_tree(target: Path) -> Path:
    """Returns the copy, made at `target`."""
    if (ROOT / ".git").exists() and shutil.which("git") is not None:
        listed = subprocess.run(LIST_FILES, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.decode()
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target / name)
    else:
        shutil.copytree(ROOT, target, ignore=PACKED_ALONG)
    _lead_to_our_python(target)
    return target


def without_settings() -> dict[str, str]:
    """Returns the environment without any setting of Hooktide's."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith("HOOKTIDE")}


def _lead_to_our_python(target: Path) -> None:
    python = target / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    made_from = subprocess.run(
        'echo "1 $(cksum <uv.lock) $(uname -sm)"', shell=True, cwd=target, stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (target / ".venv" / "hooktide-stamp").write_text(f"{made_from}runtime\n{version}\n")
