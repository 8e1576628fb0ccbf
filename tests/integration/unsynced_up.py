"""`up` over a local log that never syncs: the process that a check of syncs has to catch.

`python -m tests.integration.unsynced_up up ...`
"""

import runpy

from dataflows.connectors.log.local_database import Database


def _no_sync(self: Database) -> None:
    """Lets the system write when it likes."""


if __name__ == "__main__":
    Database._sync = _no_sync  # type: ignore[method-assign]
    runpy.run_module("deploy.cli", run_name="__main__")
