"""`up` whose `deliver` flow can be made to die or to hang in the middle of a write.

`python -m tests.integration.dying_flow up ...`; the file that `DYING_FLOW_TRAP` names says how, once it is
there: `die` or `hang`.
"""

import os
import runpy
import threading
from pathlib import Path

from dataflows.connectors.shard_store.rocks import RocksStore
from operators.shard.store_port import Batch

MODULE = "tests.integration.dying_flow"
TRAP = "DYING_FLOW_TRAP"


class PlantedError(Exception):
    """What kills the flow."""


def _spring(trap: Path) -> None:
    if trap.exists():
        if trap.read_text() == "hang":
            threading.Event().wait()
        raise PlantedError("as the test wants it")


if __name__ == "__main__":
    write, trap = RocksStore.write, Path(os.environ[TRAP])

    def write_or_die(self: RocksStore, batch: Batch) -> None:
        """Writes, unless the trap is set."""
        _spring(trap)
        write(self, batch)

    RocksStore.write = write_or_die  # type: ignore[method-assign]
    runpy.run_module("deploy.cli", run_name="__main__")
