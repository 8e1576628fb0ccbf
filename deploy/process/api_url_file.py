"""Where the API of a data directory listens: a file that `up` leaves for the commands of the same machine.

With `--port 0`, or another port than the settings say, a command could not know it. The file says where the
last start listened, also when that process is gone: then nothing answers there, and the command says so.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

FILE: Final = "api.url"


def leave_url(directory: Path, url: str) -> None:
    """Writes the file; without it everything works but the commands' guess."""
    unfinished = directory / f"{FILE}.unfinished"
    with suppress(OSError):
        unfinished.write_text(url + "\n", encoding="ascii")
        unfinished.replace(directory / FILE)


def left_url(directory: Path) -> str | None:
    """Returns what the last start wrote; None when there is nothing that could be a URL."""
    try:
        text = (directory / FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if text.startswith("http://") else None
