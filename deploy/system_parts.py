"""The system parts that some tests run against: `./hooktide test-deps` puts them in place.

Today that is Node.js and the npm package `standardwebhooks`, the official verifier in the other language, at
the versions and digests of `tests/integration/node/package-lock.json`. Node comes from the distribution where
it is missing and we are root; elsewhere a sentence says what to install. Install scripts of npm packages do
not run.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import Unavailable

NODE_PROJECT = Path(__file__).resolve().parent.parent / "tests" / "integration" / "node"


class SystemPartMissing(Unavailable):
    """A system part is missing and cannot be installed from here; the message says what a person can do."""


def install_system_parts() -> None:
    """Installs what is missing; does next to nothing when everything is there.

    Raises:
        SystemPartMissing: A part is missing and this account may not install it, or an installer failed.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        _install_node()
    _run(("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"), NODE_PROJECT)


def _install_node() -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SystemPartMissing(
            "Node.js or npm is missing; install both (apt-get install nodejs npm, as root)"
        )
    _run(("apt-get", "update", "-qq"), NODE_PROJECT)
    _run(("apt-get", "install", "-qq", "-y", "--no-install-recommends", "nodejs", "npm"), NODE_PROJECT)


def _run(command: Sequence[str], directory: Path) -> None:
    sys.stdout.write(f"test-deps: {' '.join(command)}\n")
    sys.stdout.flush()
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=directory, env=environment, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemPartMissing(f"{command[0]} failed with exit code {done.returncode}; its message is above")
