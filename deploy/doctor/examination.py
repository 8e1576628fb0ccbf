"""The examination: every look at this machine, in the order in which `up` needs what it finds."""

from collections.abc import Iterator
from pathlib import Path

from deploy.doctor.disk import look_at_directory
from deploy.doctor.finding import Finding
from deploy.doctor.machine import (
    look_at_clock,
    look_at_descriptors,
    look_at_libraries,
    look_at_memory,
    look_at_python,
)
from deploy.doctor.network import look_at_loopback, look_at_names, look_at_port, look_at_tls
from schemas.settings import Settings


def examine(settings: Settings, tls_to: str | None = None) -> list[Finding]:
    """Returns everything that was found.

    Args:
        settings: with which `up` would start.
        tls_to: a host to make a TLS connection to; None: nothing leaves the machine but a question to its
            DNS.
    """
    return list(_look(settings, tls_to))


def _look(settings: Settings, tls_to: str | None) -> Iterator[Finding]:
    yield look_at_python()
    yield look_at_libraries()
    yield look_at_clock(Path(settings.data))
    yield from look_at_directory(Path(settings.data))
    yield look_at_loopback()
    yield look_at_port(settings.api.host, settings.api.port)
    yield look_at_descriptors(settings.egress.slots, settings.log.shards)
    yield look_at_memory()
    yield look_at_names()
    if tls_to is not None:
        yield look_at_tls(tls_to)
