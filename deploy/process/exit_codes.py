"""How the process ends: the exit codes that a supervisor decides by, and which error becomes which.

A refused start (3) will be refused again until a person does something; a failure while running (1) and a
stall (70) are healed by starting again.

Source: 70 is EX_SOFTWARE of sysexits.h, 130 is 128 + SIGINT as shells say it; `docs/settings.md` lists them.
"""

from enum import IntEnum

from schemas.errors import BadSettings, DamagedShard, DiskFull, HooktideError, Refused


class ExitCode(IntEnum):
    """What the process tells whoever started it."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    STALLED = 70
    INTERRUPTED = 130


def code_of_start(error: HooktideError) -> ExitCode:
    """Returns the code for an error that kept the process from starting."""
    if isinstance(error, BadSettings):
        return ExitCode.USAGE
    return ExitCode.FAILED if isinstance(error, DiskFull) else ExitCode.REFUSED  # with room it starts


def code_of_death(error: BaseException) -> ExitCode:
    """Returns the code for an error that ended a part of the running process."""
    if isinstance(error, BadSettings):
        return ExitCode.USAGE
    if isinstance(error, DamagedShard):  # the next start sets the store aside and goes on
        return ExitCode.FAILED
    return ExitCode.REFUSED if isinstance(error, Refused) else ExitCode.FAILED
