"""A finding: one thing that was looked at, how it is, and what to do when it is not well."""

from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    """How it is: `failed` keeps `up` from working, `warning` does not."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Finding(Struct, frozen=True):
    """One finding; `advice` is empty when nothing has to be done."""

    level: Level
    name: str
    what: str
    advice: str = ""


def ok(name: str, what: str) -> Finding:
    """Returns a good one."""
    return Finding(Level.OK, name, what)


def warning(name: str, what: str, advice: str) -> Finding:
    """Returns one to know of."""
    return Finding(Level.WARNING, name, what, advice)


def failed(name: str, what: str, advice: str) -> Finding:
    """Returns one to mend."""
    return Finding(Level.FAILED, name, what, advice)
