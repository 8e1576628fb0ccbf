"""From the flags of `up` to an exit code: settings, log lines, the process, a sentence when it is refused.

The process itself is imported late, because it brings 100 modules along and a mistyped setting should be
answered at once.
"""

import os
import sys
from pathlib import Path

from deploy.process.complaint import complain
from deploy.process.exit_codes import ExitCode, code_of_start
from deploy.process.greeting import Ready, greeting
from deploy.process.load_settings import Flag, load_settings
from deploy.process.log_lines import LEVELS, configure_logging
from schemas.errors import BadSettings, HooktideError
from schemas.settings import Settings


def run_up(flags: tuple[Flag, ...], config: Path | None, log_level: str | None, *, rebuild: bool) -> ExitCode:
    """Runs the embedded mode to its end, on the main thread.

    Args:
        flags: settings given on the command line.
        config: a TOML file, or None for the usual one.
        log_level: None: warning on a terminal, where a person reads, info everywhere else.
        rebuild: takes shards over whose store is lost.
    """
    try:
        if log_level is not None and log_level not in LEVELS:
            raise BadSettings(f"--log-level {log_level} is not right: it must be one of {', '.join(LEVELS)}")
        configure_logging(log_level or ("warning" if sys.stderr.isatty() else "info"))
        _leave_stdin()
        return _run(load_settings(flags, config), rebuild=rebuild)
    except HooktideError as error:
        complain(str(error))
        return code_of_start(error)


def _leave_stdin() -> None:
    """Puts the null device at standard input.

    ClickHouse in the process takes what a pipe there holds for rows of our INSERTs, and waits for more.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null != 0:
        os.close(null)


def _run(settings: Settings, *, rebuild: bool) -> ExitCode:
    from deploy.process.embedded import Audience, run_embedded  # noqa: PLC0415 - see above

    is_watched = sys.stdout.isatty()

    def greet(ready: Ready) -> None:
        text = greeting(ready, settings, is_terminal=is_watched)
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever started us reads no more, which is no reason to stop delivering
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for the rest of the process

    def say_stopping() -> None:
        if is_watched:
            wait_s = settings.deliver.stop_deadline_ms / 1_000
            complain(f"stopping; what is in flight gets up to {wait_s:g} s, and Ctrl-C again ends it at once")

    return run_embedded(settings, Audience(greet, say_stopping, complain), rebuild=rebuild)
