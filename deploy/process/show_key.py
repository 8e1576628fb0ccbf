"""Prints the admin key of a data directory. The directory is not opened: its process may be running."""

import json
import sys
from pathlib import Path

from dataflows.connectors.data_directory import ADMIN_KEY_FILE, admin_key
from deploy.process.complaint import complain
from deploy.process.exit_codes import ExitCode, code_of_start
from deploy.process.load_settings import Flag, load_settings
from schemas.errors import HooktideError, Refused


def show_key(flags: tuple[Flag, ...], config: Path | None, *, as_json: bool = False) -> ExitCode:
    """Prints the key; it is never made here, because a mistyped directory would get one."""
    try:
        directory = Path(load_settings(flags, config).data)
        if not (directory / ADMIN_KEY_FILE).exists():
            raise Refused(
                f"{directory} holds no admin key; `./hooktide up` makes it; --data names another directory"
            )
        key, _ = admin_key(directory)
    except HooktideError as error:
        complain(str(error))
        return code_of_start(error)
    sys.stdout.write((json.dumps({"key": key}) if as_json else key) + "\n")
    return ExitCode.OK
