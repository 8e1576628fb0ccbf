"""Takes a tour: types a page's blocks into real shells, as a reader would, and compares what they print.

    python3 tests/tour/take.py README.md            # in a clone, on a machine where its ports are free
    python3 tests/tour/take.py README.md --own-network

Standard library only, so that it runs in a clean Debian. Each terminal is one `bash`, kept for the whole
tour. What stays is ended with Ctrl-C, the last one first, and has to exit with 0. With `--own-network` the
tour has a loopback of its own (Linux, `unshare`), so the page's ports are free whatever else runs.

Exit code: 0 when the tour went as the page says, 1 when not, 2 when the page is no tour.
"""

import argparse
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from blocks import Block, NotATour, blocks_of, is_shown  # type: ignore[import-not-found]

FAILED = "<<tour: a command failed>>"
ENDED = re.compile(r"<<tour: block (\d+) ended>>\n")
POLL_S = 0.05
AGAIN_S = 0.5
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


class Lost(Exception):  # noqa: N818 - it reads as the sentence it is
    """The tour did not go as the page says; the message says where and what was seen."""


class Terminal:
    """A shell with what it has printed so far.

    Attributes:
        seen: how far its output has been compared; "shows" goes on from there.
    """

    def __init__(self, directory: Path) -> None:
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._printed = ""
        self._blocks = 0
        self.seen = 0
        self._send(f'trap \'printf "%s\\n" "{FAILED}"\' ERR\n')
        threading.Thread(target=self._read, daemon=True).start()

    def type(self, text: str) -> int:
        """Types a block; returns its number, which `has_ended` takes."""
        self._blocks += 1
        self.seen = len(self._printed)
        self._send(f"{text}\nprintf '<<tour: block %s ended>>\\n' {self._blocks}\n")
        return self._blocks

    def has_ended(self, block: int) -> bool:
        """Returns whether the block has run to its end."""
        return any(int(number) >= block for number in ENDED.findall(self._printed))

    @property
    def output(self) -> str:
        """What was printed since `seen`, without the marks of the tour itself."""
        return ENDED.sub("", self._printed[self.seen :])

    @property
    def has_failed(self) -> bool:
        """Whether a command has failed, since the block that was typed last."""
        return FAILED in self._printed[self.seen :] or self._shell.poll() is not None

    def mark_seen(self) -> None:
        """Lets the next comparison begin behind what is printed now."""
        self.seen = len(self._printed)

    def interrupt(self) -> None:
        """Presses Ctrl-C: what runs in the foreground gets the signal, and so does the shell."""
        os.killpg(self._shell.pid, signal.SIGINT)

    def close(self) -> None:
        """Leaves nothing of it running."""
        if self._shell.poll() is None:
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()

    def _send(self, text: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(text.encode())
        self._shell.stdin.flush()

    def _read(self) -> None:
        assert self._shell.stdout is not None
        while piece := os.read(self._shell.stdout.fileno(), 65_536):
            self._printed += piece.decode("utf-8", "replace")


class Tour:
    """One walk through a page.

    Args:
        patience_s: how long a block may take; the first start fetches its environment.
    """

    def __init__(self, directory: Path, patience_s: float) -> None:
        self._directory = directory
        self._patience_s = patience_s
        self._terminals: dict[int, Terminal] = {}
        self._staying: list[tuple[Block, Terminal, int]] = []

    def take(self, blocks: list[Block]) -> None:
        """Takes every block in order, then ends what stays.

        Raises:
            Lost: Something was not as the page says.
        """
        try:
            for block in blocks:
                began = time.monotonic()
                self._take(block)
                say(f"  line {block.line:>3}  terminal {block.terminal}  {time.monotonic() - began:5.1f} s")
            for block, terminal, number in reversed(self._staying):
                terminal.mark_seen()
                terminal.interrupt()
                self._await_end(block, terminal, number)
        finally:
            for terminal in self._terminals.values():
                terminal.close()

    def _take(self, block: Block) -> None:
        terminal = self._terminals.get(block.terminal) or Terminal(self._directory)
        self._terminals[block.terminal] = terminal
        until = time.monotonic() + self._patience_s
        if block.manner == "shows":
            self._await_shown(block, terminal, until)
            return
        number = terminal.type(block.typed)
        if block.manner == "stays":
            self._staying.append((block, terminal, number))
            self._await_shown(block, terminal, until)
            return
        self._await_end(block, terminal, number)
        while block.shown is not None and not is_shown(block.shown, terminal.output):
            if block.manner != "again" or time.monotonic() > until:
                raise self._lost(block, terminal, "prints something else")
            time.sleep(AGAIN_S)
            self._await_end(block, terminal, terminal.type(block.typed))
        terminal.mark_seen()

    def _await_shown(self, block: Block, terminal: Terminal, until: float) -> None:
        while block.shown is not None and not is_shown(block.shown, terminal.output):
            if terminal.has_failed:
                raise self._lost(block, terminal, "failed")
            if time.monotonic() > until:
                raise self._lost(block, terminal, f"does not show that within {self._patience_s:.0f} s")
            time.sleep(POLL_S)
        terminal.mark_seen()

    def _await_end(self, block: Block, terminal: Terminal, number: int) -> None:
        until = time.monotonic() + self._patience_s
        while not terminal.has_ended(number) and not terminal.has_failed:
            if time.monotonic() > until:
                raise self._lost(block, terminal, f"does not end within {self._patience_s:.0f} s")
            time.sleep(POLL_S)
        if terminal.has_failed:
            raise self._lost(block, terminal, "failed")

    def _lost(self, block: Block, terminal: Terminal, what: str) -> Lost:
        wanted = f"\n--- the page shows\n{block.shown[1]}" if block.shown else ""
        others = "".join(
            f"\n--- terminal {number}\n{other.output}"
            for number, other in self._terminals.items()
            if other is not terminal
        )
        typed = f"\n{block.typed}" if block.typed else " "
        return Lost(f"line {block.line}:{typed}{what}{wanted}\n--- printed\n{terminal.output}{others}")


def say(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def enter_own_network(arguments: list[str]) -> None:
    """Starts this script again in a network namespace of its own; returns when that is not possible here."""
    unshare = shutil.which("unshare")
    namespaces = ["--net"] if os.geteuid() == 0 else ["--net", "--user", "--map-root-user"]
    if unshare is None or subprocess.run([unshare, *namespaces, "true"], check=False).returncode != 0:
        say("no network namespace is to be had here; the page's ports have to be free")
        return
    os.execv(unshare, [unshare, *namespaces, sys.executable, __file__, *arguments, "--in-own-network"])


def bring_loopback_up() -> None:
    """Switches the loopback of a new network namespace on."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def main() -> int:
    """Takes the tour that the arguments name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path)
    parser.add_argument("--directory", type=Path, default=Path(), help="where the terminals stand")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that a block may take")
    parser.add_argument("--own-network", action="store_true")
    parser.add_argument("--in-own-network", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_own_network:
        bring_loopback_up()
    elif given.own_network:
        enter_own_network(sys.argv[1:])
    try:
        blocks = blocks_of(given.page.read_text(encoding="utf-8"))
        say(f"{given.page}: {len(blocks)} blocks")
        Tour(given.directory, given.patience).take(blocks)
    except NotATour as error:
        say(str(error))
        return 2
    except Lost as error:
        say(str(error))
        return 1
    say("the tour went as the page says")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
