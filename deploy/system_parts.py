"""The system parts that some tests run against: `./hooktide test-deps` puts them in place.

Node.js and the npm package `standardwebhooks`, the official verifier in the other language, at the versions
and digests of `tests/integration/node/package-lock.json`; strace, which shows that a sync came before its
answer; a C compiler, for the library that gives a process another wall clock. What is missing comes from the
distribution, in one go, when we are root; elsewhere a sentence says what to install. Install scripts of npm
packages do not run.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from schemas.errors import Unavailable

NODE_PROJECT = Path(__file__).resolve().parent.parent / "tests" / "integration" / "node"
PACKAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"node": ("nodejs",), "npm": ("npm",), "strace": ("strace",), "cc": ("gcc", "libc6-dev")}
)
"""The distribution's packages of each program."""


class SystemPartMissing(Unavailable):
    """A system part is missing and cannot be installed from here; the message says what a person can do."""


def missing_packages() -> list[str]:
    """Returns the packages of the programs that are not here."""
    missing = [packages for program, packages in PACKAGES.items() if shutil.which(program) is None]
    return [package for packages in missing for package in packages]


def install_system_parts() -> None:
    """Installs what is missing; does next to nothing when everything is there.

    Raises:
        SystemPartMissing: A part is missing and this account may not install it, or an installer failed.
    """
    packages = missing_packages()
    if packages:
        _install(packages)
    _run(("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"), NODE_PROJECT)


def _install(packages: Sequence[str]) -> None:
    wanted = " ".join(packages)
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SystemPartMissing(f"missing: {wanted}; install them as root (apt-get install {wanted})")
    _run(("apt-get", "update", "-qq"), NODE_PROJECT)
    _run(("apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages), NODE_PROJECT)


def _run(command: Sequence[str], directory: Path) -> None:
    sys.stdout.write(f"test-deps: {' '.join(command)}\n")
    sys.stdout.flush()
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=directory, env=environment, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemPartMissing(f"{command[0]} failed with exit code {done.returncode}; its message is above")
