"""Reads the delivery log of a stopped process, in a process of its own: chdb takes one directory each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dataflows.connectors.delivery_log.chdb import ChdbLog
from deploy.checks import ROOT


def dump(data: Path, sql: str) -> list[dict[str, Any]]:
    """Returns the rows of a SELECT over a data directory that nobody has open.

    Args:
        data: as given to `up --data`.
        sql: bytes that are no text come back escaped.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.log_dump", str(data / "delivery_log"), sql],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _main(directory: str, sql: str) -> None:
    log = ChdbLog(Path(directory))
    for row in log.query(sql):
        sys.stdout.write(json.dumps(row, default=repr) + "\n")
    log.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
