"""What every test may ask for: a real component, or a clear word about its absence."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from deploy.checks import REQUIRE_REAL
from deploy.system_parts import NODE_PROJECT

# No deadline and no complaint about slowness: the machine is shared, and a property that is slow is not
# false. What is too slow for everybody is caught by the timeout of pyproject.toml.
settings.register_profile(
    "house", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("house")


class RequireReal(Protocol):
    """Says that a test needs a real component."""

    def __call__(self, name: str, found: bool, how_to_get: str) -> None:  # noqa: FBT001 - it reads as a sentence
        """Lets the test go on when the component was found; skips it otherwise, and fails it in CI.

        Args:
            name: The component, as in "node".
            found: Whether it is here.
            how_to_get: The command that brings it.
        """
        ...


@pytest.fixture(scope="session")
def require_real() -> RequireReal:
    """The one way to skip: CI cannot skip what it promises to run."""

    def require(name: str, found: bool, how_to_get: str) -> None:  # noqa: FBT001 - as in the protocol
        if found:
            return
        reason = f"{name} is not here; get it with: {how_to_get}"
        if os.environ.get(REQUIRE_REAL) == "1":
            pytest.fail(f"{reason} (skipped outside CI)", pytrace=False)
        pytest.skip(reason)

    return require


@pytest.fixture(scope="session")
def strace(require_real: RequireReal) -> None:
    """`strace` is here, and may trace: some containers forbid it."""
    require_real("strace", shutil.which("strace") is not None, "./hooktide test-deps")
    if not _runs("strace", "-o", os.devnull, "true"):
        pytest.skip("this machine lets nobody trace processes (in a container: --cap-add SYS_PTRACE)")


@pytest.fixture(scope="session")
def node_project(require_real: RequireReal) -> Path:
    """A directory where `node` finds the npm package `standardwebhooks`, the official verifier."""
    found = shutil.which("node") is not None and (NODE_PROJECT / "node_modules" / "standardwebhooks").is_dir()
    require_real("node with the npm package standardwebhooks", found, "./hooktide test-deps")
    return NODE_PROJECT


def _runs(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True, timeout=20).returncode == 0
