"""Where the API is and which key it takes, when nobody says so: as the settings here say.

A flag is stronger than HOOKTIDE_URL and HOOKTIDE_KEY, and those are stronger than what the data directory
holds: where its last start listened, and its admin key. So on one machine nothing has to be typed. The local
key is only ever sent to an address of this machine: with a `--url` elsewhere, that elsewhere would learn it.
"""

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from deploy.client.connection import Connection
from schemas.errors import BadInput

URL_VARIABLE: Final = "HOOKTIDE_URL"
KEY_VARIABLE: Final = "HOOKTIDE_KEY"
TENANT_VARIABLE: Final = "HOOKTIDE_TENANT"


def connect(url: str | None, key: str | None, data: str | None) -> Connection:
    """Returns a connection to the API.

    Args:
        url, key: as given by flag or environment; None or empty: found here.
        data: the data directory whose key is taken; None: the one of the settings.

    Raises:
        HooktideError: what is missing, in one sentence.
    """
    if url and key:
        return Connection(url, key.strip())
    from deploy.process.api_url_file import left_url  # noqa: PLC0415 - 0.1 s, when it is needed
    from deploy.process.load_settings import Flag, load_settings  # noqa: PLC0415

    settings = load_settings((Flag("data", "--data", data),))
    host = settings.api.host
    url = url or left_url(Path(settings.data))
    url = url or f"http://{f'[{host}]' if ':' in host else host}:{settings.api.port}"
    if not key:
        if not _is_here(url):
            raise BadInput(
                f"{url} is another machine, so its key is not here: give it in {KEY_VARIABLE} or with --key"
            )
        key = local_key(Path(settings.data))
    return Connection(url, key.strip())


def local_key(directory: Path) -> str:
    """Returns the admin key of a data directory; the directory is not opened, its process may be running.

    Raises:
        HooktideError: there is none, or it cannot be read.
    """
    from dataflows.connectors.data_directory import ADMIN_KEY_FILE, admin_key  # noqa: PLC0415 - as above

    if not (directory / ADMIN_KEY_FILE).exists():
        raise BadInput(
            f"there is no admin key in {directory}: start `./hooktide up` in this directory, name its data "
            f"directory with --data, or give the key in {KEY_VARIABLE}"
        )
    return admin_key(directory)[0]


def clean_environment() -> dict[str, str]:
    """Returns the environment without anything of ours, for a process that must not inherit it."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith("HOOKTIDE_")}


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
