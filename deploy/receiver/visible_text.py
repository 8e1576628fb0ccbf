"""Foreign text for a terminal: what a terminal would act on is shown instead of sent."""

import json
from typing import Any


def visible(text: str, keep: str = "") -> str:
    """Returns the text with everything that does not print shown as an escape.

    Args:
        keep: characters that stay as they are, as a line's end.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def json_text(document: Any, *, indent: int | None = 2) -> str:  # noqa: ANN401 - JSON is what it is
    """Returns JSON that a person and a program can read: any script as it is, controls escaped."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
