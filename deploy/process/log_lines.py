"""Log lines: for a person on a terminal, one JSON object a line for everything else. Always on stderr.

Whatever is written passes a last step that takes keys and secrets out, also those in an exception's text.
It is the net, not the rule: nothing logs a secret on purpose.

Tracebacks are plain. Rejected: structlog's rich ones, which show local variables, and locals hold secrets.
"""

import io
import logging
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS: Final = ("debug", "info", "warning", "error")
_SECRETS: Final = re.compile(r"(whsec_|hk_|whsk_|Bearer )[A-Za-z0-9+/=_.-]{8,}")
_THIRD_PARTIES: Final = logging.WARNING

Render = Callable[[WrappedLogger, str, EventDict], str]


class LossyStream(io.TextIOBase):
    """Loses lines rather than raising: a full disk below a log file must not stop deliveries."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return self._out.isatty()

    def write(self, text: str) -> int:
        """Writes what can be written."""
        with suppress(OSError, ValueError):  # ValueError: it was closed
            self._out.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        with suppress(OSError, ValueError):
            self._out.flush()


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Sets up structlog, and the standard library's logging for third parties, once for the process.

    Args:
        level: one of `LEVELS`.
        stream: stderr, unless a test wants to read it.
    """
    out = cast("TextIO", LossyStream(sys.stderr if stream is None else stream))
    is_terminal = out.isatty()
    stamped: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if is_terminal else "iso", utc=not is_terminal),
    ]
    last: list[Processor]
    if is_terminal:
        render = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        last = [_without_secrets(render)]
    else:
        last = [structlog.processors.format_exc_info, _without_secrets(structlog.processors.JSONRenderer())]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*stamped, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=stamped,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, _THIRD_PARTIES))


def _without_secrets(render: Any) -> Processor:  # noqa: ANN401 - renderers of structlog differ in their types
    def rendered(logger: WrappedLogger, name: str, event: EventDict) -> str:
        return _SECRETS.sub(r"\1...", str(render(logger, name, event)))

    return rendered
