"""JSON given on the command line: as text, as the name of a file, or as `-` for stdin."""

import json
import sys
from pathlib import Path
from typing import Any

from schemas.errors import BadInput


def read_given(given: str) -> bytes:
    """Returns the bytes behind an argument: stdin for `-`, a file for `@name`.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if given == "-" else Path(given.removeprefix("@")).read_bytes()
    except OSError as error:
        raise BadInput(f"{given} cannot be read ({(error.strerror or str(error)).lower()})") from error


def json_given(given: str, flag: str) -> bytes:
    """Returns JSON as its bytes, spelled as it was.

    Args:
        given: `-`, the name of a file (with or without an @ before it), or the JSON itself.
        flag: that it belongs to, for the complaint.

    Raises:
        BadInput: it is none of these.
    """
    is_file = given == "-" or given.startswith("@") or _is_file(given)
    raw = read_given(given) if is_file else given.encode("utf-8", "surrogateescape")
    try:
        json.loads(raw)
    except (ValueError, RecursionError) as error:
        what = "stdin" if given == "-" else f"the file {given.removeprefix('@')}" if is_file else "it"
        hint = "" if is_file else f"; a file of this name ({given[:40]}) is not here either"
        raise BadInput(f"{flag} takes JSON, and {what} is none ({error}){hint}") from error
    return raw


def object_given(given: str, flag: str) -> dict[str, Any]:
    """Returns a JSON object.

    Raises:
        BadInput: it is none.
    """
    document = json.loads(json_given(given, flag))
    if not isinstance(document, dict):
        raise BadInput(f'{flag} takes a JSON object, as in {{"description": "new"}}')
    return document


def _is_file(given: str) -> bool:
    try:
        return Path(given).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return False
