"""What a power cut leaves of a directory, worked out from the system calls of the process that wrote to it.

The rules are POSIX's, which promise less than any file system does: a file's bytes are safe after its own
`fsync`, a name is safe after the `fsync` of its directory, and nothing else is. What was not synced may be
there in part: of every file and of every directory a prefix of the operations since its last sync, the last
of them torn. A torn overwrite keeps whole sectors; a torn extension ends at any byte, or reads as zeros.

Rejected: dm-flakey and LazyFS (they need a kernel module or FUSE, which test machines do not have, and give
one image per run where this gives one per system call).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tests.conformance.system_calls import LENGTHS, NAMES, SYNCS, Call

TRACED = ("write", "writev", "pwrite64", *SYNCS, *NAMES, *LENGTHS, "fallocate", "close")
_SECTOR_BYTES = 512


class Piece(NamedTuple):
    """A change of a file's bytes: `data` at an offset, or, without data, a new length."""

    at: int
    data: bytes | None


@dataclass(eq=False)
class _File:
    synced: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    pending: list[Piece] = field(default_factory=list)

    def apply(self, piece: Piece) -> None:
        _apply(self.now, piece)
        self.pending.append(piece)

    def sync(self) -> None:
        self.synced = bytes(self.now)
        self.pending.clear()


@dataclass(eq=False)
class _Directory:
    """Names, and the changes of names since the last sync: (name, what it stands for or None)."""

    synced: "dict[str, _File | _Directory]" = field(default_factory=dict)
    now: "dict[str, _File | _Directory]" = field(default_factory=dict)
    pending: "list[tuple[tuple[str, _File | _Directory | None], ...]]" = field(default_factory=list)

    def change(self, *changes: "tuple[str, _File | _Directory | None]") -> None:
        _rename(self.now, changes)
        self.pending.append(changes)

    def sync(self) -> None:
        self.synced = dict(self.now)
        self.pending.clear()


@dataclass(eq=False)
class _Open:
    file: _File
    position: int
    is_append: bool


class PowerCutDisk:
    """Follows one process's calls below a root directory; `leave` says what a power cut would leave now.

    Args:
        root: absolute; empty, and its own name safe, when the process starts.
    """

    def __init__(self, root: Path) -> None:
        self._root = PurePosixPath(root)
        self._top = _Directory()
        self._open: dict[int, _Open] = {}
        self.unsynced_seen = 0

    def apply(self, call: Call) -> None:
        """Takes a call that returned."""
        if call.result < 0:
            return
        if call.name in NAMES:
            self._name(call)
        elif call.name in SYNCS:
            self._sync(call)
        elif call.name == "close":
            self._open.pop(call.descriptor, None)
        elif (opened := self._open.get(call.descriptor)) is not None:
            self._write(opened, call)

    def leave(self, target: Path, chance: random.Random) -> None:
        """Writes what the power cut leaves into a new directory.

        Args:
            chance: decides how much of what was not synced is there: nothing, all, or a part of each.
        """
        how = chance.choice(("synced", "written", "part", "part"))
        for path, file in self._left(self._top, target, how, chance):
            path.write_bytes(file)

    def _name(self, call: Call) -> None:
        if call.name in {"open", "openat", "creat"}:
            self._opened(call)
            return
        places = [self._place(text.decode()) for text in call.texts]
        if any(place is None for place in places):
            return
        directory, name = places[0] or (_Directory(), "")
        if call.name.startswith("mkdir"):
            directory.change((name, _Directory()))
        elif call.name.startswith("unlink"):
            directory.change((name, None))
        else:
            other, new_name = places[1] or (_Directory(), "")
            assert other is directory, "a rename between directories is not followed"
            directory.change((new_name, directory.now[name]), (name, None))

    def _opened(self, call: Call) -> None:
        place = self._place(call.result_target.removesuffix("(deleted)"))
        self._open.pop(call.result, None)
        if place is None:
            return
        directory, name = place
        file = directory.now.get(name)
        if file is None:
            file = _File()
            directory.change((name, file))
        if isinstance(file, _Directory):
            return
        if "O_TRUNC" in call.arguments and file.now:
            file.apply(Piece(0, None))
        self._open[call.result] = _Open(file, 0, "O_APPEND" in call.arguments)

    def _sync(self, call: Call) -> None:
        if call.descriptor in self._open:
            self._open[call.descriptor].file.sync()
        elif (directory := self._directory(PurePosixPath(call.target))) is not None:
            directory.sync()

    def _write(self, opened: _Open, call: Call) -> None:
        if call.name == "lseek":
            opened.position = call.result
        elif call.name == "ftruncate":
            if call.last_number != len(opened.file.now):
                opened.file.apply(Piece(call.last_number, None))
        elif call.name == "pwrite64":
            opened.file.apply(Piece(call.last_number, call.data))
        elif call.name in {"write", "writev"}:
            at = len(opened.file.now) if opened.is_append else opened.position
            opened.file.apply(Piece(at, call.data))
            opened.position = at + call.result
        else:
            assert "FALLOC_FL_KEEP_SIZE" in call.arguments, f"not followed: {call.name}({call.arguments})"

    def _directory(self, path: PurePosixPath) -> _Directory | None:
        if not path.is_relative_to(self._root):
            return None
        found: _File | _Directory | None = self._top
        for name in path.relative_to(self._root).parts:
            found = found.now.get(name) if isinstance(found, _Directory) else None
        return found if isinstance(found, _Directory) else None

    def _place(self, path: str) -> tuple[_Directory, str] | None:
        whole = PurePosixPath(path)
        directory = self._directory(whole.parent)
        return None if directory is None or whole == self._root else (directory, whole.name)

    def _left(
        self, directory: _Directory, target: Path, how: str, chance: random.Random
    ) -> Iterator[tuple[Path, bytes]]:
        target.mkdir()
        names = dict(directory.synced)
        self.unsynced_seen += bool(directory.pending)
        for changes in directory.pending[: _kept(len(directory.pending), how, chance)]:
            _rename(names, changes)
        for name, what in names.items():
            if isinstance(what, _Directory):
                yield from self._left(what, target / name, how, chance)
            else:
                self.unsynced_seen += bool(what.pending)
                yield target / name, _content(what, how, chance)


def _kept(count: int, how: str, chance: random.Random) -> int:
    return {"synced": 0, "written": count}.get(how, chance.randint(0, count))


def _content(file: _File, how: str, chance: random.Random) -> bytes:
    kept = _kept(len(file.pending), how, chance)
    left = bytearray(file.synced)
    for piece in file.pending[:kept]:
        _apply(left, piece)
    if how == "part" and kept < len(file.pending) and (torn := file.pending[kept]).data is not None:
        _tear(left, torn.at, torn.data, chance)
    return bytes(left)


def _tear(content: bytearray, at: int, data: bytes, chance: random.Random) -> None:
    """Applies a part of a write: whole sectors of what it overwrites, any part of what it adds."""
    cut = at + chance.randint(0, len(data))
    if cut < len(content):
        cut -= cut % _SECTOR_BYTES
    kept = data[: max(0, cut - at)]
    if kept:
        is_extension = at >= len(content)
        zeros = is_extension and chance.random() < 0.25
        _apply(content, Piece(at, bytes(len(kept)) if zeros else kept))


def _apply(content: bytearray, piece: Piece) -> None:
    if piece.data is None:
        del content[piece.at :]
        content.extend(bytes(piece.at - len(content)))
    else:
        content.extend(bytes(max(0, piece.at - len(content))))
        content[piece.at : piece.at + len(piece.data)] = piece.data


def _rename(
    names: "dict[str, _File | _Directory]", changes: "tuple[tuple[str, _File | _Directory | None], ...]"
) -> None:
    for name, what in changes:
        if what is None:
            names.pop(name, None)
        else:
            names[name] = what
