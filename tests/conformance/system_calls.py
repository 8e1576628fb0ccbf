"""System calls of a process, as strace wrote them down: what was written where, and what was synced when.

The order of the lines is the order in which strace saw the calls, so a call has two places in it: where it
began and where it returned. Other threads' lines may stand between the two, and then the call is written in
two pieces. Times are not used: a thread can be late by any amount between a call and the next.
"""

import re
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

WRITES = ("write", "writev", "pwrite64", "sendto", "sendmsg")
SYNCS = ("fsync", "fdatasync")
NAMES = (
    "open",
    "openat",
    "creat",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
)
LENGTHS = ("ftruncate", "lseek")
_OPTIONS = ("-f", "-q", "-yy", "-s", "10000000")
_ATTACH_TIMEOUT_S = 20.0

_LINE = re.compile(r"^(\d+) +(?:[\d:.]+ +)?(?:<\.\.\. (\w+) resumed>(.*)|(\w+)\((.*))$")
_UNFINISHED = re.compile(r",? *<unfinished \.\.\.>$")
_RESULT = re.compile(r"^(.*)\) += (-?\d+)(?:<(.*)>)?(?: E[A-Z]+ .*)?(?: \(DELAYED\))?$")
_DESCRIPTOR = re.compile(r"^(\d+)<(.*?)>(?=[,() ]|$)")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')


class Call(NamedTuple):
    """One system call.

    Attributes:
        name: as in "write".
        descriptor: the first argument, when it is one; else -1.
        target: what the descriptor stands for: a path, or "TCP:[...]"; empty when there is none.
        texts: the strings among the arguments, decoded, in order.
        arguments: all of it, as strace wrote it.
        result: what it returned; negative when it failed.
        result_target: what a returned descriptor stands for.
        began: the line where it began.
        ended: the line where it returned.
    """

    name: str
    descriptor: int
    target: str
    texts: tuple[bytes, ...]
    arguments: str
    result: int
    result_target: str
    began: int
    ended: int

    @property
    def data(self) -> bytes:
        """What a write handed over and the kernel took."""
        return b"".join(self.texts)[: max(0, self.result)]

    @property
    def last_number(self) -> int:
        """The last argument: the offset of `pwrite64`, the length of `ftruncate`."""
        return int(self.arguments.rpartition(",")[2])


def parse(lines: Iterable[str]) -> Iterator[Call]:
    """Yields the calls that returned, in the order in which they did."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        found = _LINE.match(line.rstrip("\n"))
        if found is None:  # an exit, a signal
            continue
        thread, resumed, rest, name, arguments = found.groups()
        began = number
        if resumed is None and _UNFINISHED.search(arguments):
            begun[thread] = number, _UNFINISHED.sub("", arguments)
            continue
        if resumed is not None:
            if thread not in begun:  # strace came when the call was under way
                continue
            began, before = begun.pop(thread)
            name, arguments = resumed, before + rest
        call = _call(name, arguments, began, number)
        if call is not None:
            yield call


def _call(name: str, text: str, began: int, ended: int) -> Call | None:
    parts = _RESULT.match(text)
    if parts is None:  # "= ?": the process ended inside
        return None
    arguments, result, result_target = parts.groups()
    descriptor = _DESCRIPTOR.match(arguments)
    rest = arguments[descriptor.end() :] if descriptor else arguments
    texts = tuple(_decoded(piece) for piece in _TEXT.findall(rest))
    return Call(
        name,
        int(descriptor[1]) if descriptor else -1,
        descriptor[2] if descriptor else "",
        texts,
        arguments,
        int(result),
        result_target or "",
        began,
        ended,
    )


def _decoded(text: str) -> bytes:
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def read_trace(file: Path) -> list[Call]:
    """Returns the calls of a trace file."""
    with file.open(encoding="latin-1", newline="\n") as lines:
        return list(parse(lines))


def traced(command: Sequence[str], trace: Path, names: Sequence[str]) -> list[str]:
    """Returns the command with strace around it."""
    return [
        "strace",
        *_OPTIONS,
        "--seccomp-bpf",
        "-e",
        f"trace={','.join(names)}",
        "-o",
        str(trace),
        *command,
    ]


class AttachedTrace:
    """strace, attached to a running process and all of its threads, for the length of a `with`.

    A call that strace has not seen return when the `with` ends stands in the trace without a result, although
    others may have seen its effect already: wait for what the same thread does after it.

    Args:
        pid: of the process.
        trace: the file to write.
        names: the calls to write down.
        sync_delay_ms: makes every sync take so much longer: what does not wait for it overtakes it.
    """

    def __init__(self, pid: int, trace: Path, names: Sequence[str], sync_delay_ms: int = 0) -> None:
        delay = f"inject={','.join(SYNCS)}:delay_enter={sync_delay_ms * 1_000}"
        self._command = [
            "strace",
            *(option for option in _OPTIONS if option != "-q"),
            "-e",
            f"trace={','.join(names)}",
            *(("-e", delay) if sync_delay_ms else ()),
            "-o",
            str(trace),
            "-p",
            str(pid),
        ]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        assert "attached" in line, f"strace cannot attach: {line}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=_ATTACH_TIMEOUT_S)
