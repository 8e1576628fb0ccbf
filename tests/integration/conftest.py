"""Fixtures of tests that run the whole system."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.hooktide_process import HooktideProcess

MakeHooktide = Callable[[str], HooktideProcess]


@pytest.fixture
def make_hooktide(tmp_path: Path) -> Iterator[MakeHooktide]:
    """Makes named processes, each over a data directory of its own; none outlives the test."""
    with ExitStack() as closing:

        def make(name: str) -> HooktideProcess:
            process = HooktideProcess(tmp_path / name)
            closing.callback(process.close)
            return process

        yield make


@pytest.fixture
def hooktide(make_hooktide: MakeHooktide) -> HooktideProcess:
    """A process that is not started yet, over an empty data directory."""
    return make_hooktide("hooktide")
