"""Reads `docs/api-errors.md`: a document for people whose every row is a request and the answer to it.

The page explains its notation to its readers; this module is the other reader of that explanation. A section
is a request in a fenced block, which must be accepted as it stands, and a table of changes to it, each with
the refusal that it earns.

Rejected: a table in Python that the page is generated from (people mend pages, not generators), and requests
written out in full (what is wrong with them would be one word among thirty).
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Names = Mapping[str, str]

_INSERT = re.compile("\u27e8([^\u27e9]*)\u27e9")
_TIMES = re.compile(r"(\d+) times (.+)", re.DOTALL)
_SPAN = re.compile(r"(`+)(.+?)\1(?!`)")
_ELISION = "\u2026"
_REFUSALS_OF_THE_PAGE = ("status", "code", "answer")


@dataclass(frozen=True)
class Request:
    """A request as bytes in pieces; `wire` puts them together."""

    method: str = "GET"
    path: bytes = b"/"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = None

    def wire(self, key: str) -> bytes:
        """Returns the bytes to send; what the page leaves out (host, key, length) is put in."""
        lines = [self.method.encode() + b" " + self.path + b" HTTP/1.1"]
        given = {name.lower() for name, _ in self.headers}
        headers = [(name, value) for name, value in self.headers if value != b"\0absent"]
        for name, value in (("Host", "localhost"), ("Authorization", f"Bearer {key}")):
            if name.lower().encode() not in given:
                headers.insert(0, (name.encode(), value.encode()))
        if self.body is not None and not given & {b"content-length", b"transfer-encoding"}:
            headers.append((b"Content-Length", str(len(self.body)).encode()))
        headers.append((b"Connection", b"close"))
        lines += [name + b": " + value for name, value in headers]
        return b"\r\n".join([*lines, b"", b""]) + (self.body or b"")


@dataclass(frozen=True)
class Row:
    """A change to a section's request, and the refusal of what comes out."""

    line: int
    sent: str
    changes: tuple[str, ...]
    status: int
    code: str
    answer: str

    def is_answered_by(self, detail: str) -> bool:
        """Whether the sentence is the row's; an ellipsis in the row stands for anything."""
        pattern = ".*".join(map(re.escape, self.answer.split(_ELISION)))
        return re.fullmatch(pattern, detail, re.DOTALL) is not None


@dataclass
class Section:
    """A request that is accepted, and what happens to it when it is changed."""

    title: str
    options: tuple[str, ...]
    block: str
    rows: list[Row] = field(default_factory=list)

    def request(self, names: Names) -> Request:
        """Returns the request of the fenced block."""
        head, _, body = self.block.partition("\n\n")
        first, *lines = head.splitlines()
        method, _, path = first.partition(" ")
        headers = [line.partition(": ") for line in lines]
        return Request(
            method,
            expand(path, names),
            tuple((name.encode(), expand(value, names)) for name, _, value in headers),
            expand(body, names) if body else None,
        )

    def changed(self, row: Row, names: Names) -> Request:
        """Returns the request of a row."""
        request = self.request(names)
        for change in row.changes:
            request = apply(request, change, names)
        return request


def read_page(path: Path) -> list[Section]:
    """Returns the sections of the page that hold a request."""
    sections: list[Section] = []
    title, pointer, is_table = "", "", False
    block: list[str] | None = None
    options: tuple[str, ...] = ()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("```http"):
            options, block = tuple(line.split()[1:]), []
        elif line == "```" and block is not None:
            sections.append(Section(title, options, "\n".join(block)))
            block = None
        elif block is not None:
            block.append(line)
        elif line.startswith("#"):
            title = line.lstrip("# ")
        elif not line.startswith("|"):
            is_table = False
        elif line.startswith("| "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if tuple(cells[1:]) == _REFUSALS_OF_THE_PAGE:
                is_table, pointer = True, cells[0].strip("`") if cells[0].startswith("`/") else ""
            elif is_table:
                sections[-1].rows.append(_row(number, cells, pointer))
    return sections


def _row(line: int, cells: list[str], pointer: str) -> Row:
    sent, status, code, answer = cells
    spans = [_unpadded(found[2]) for found in _SPAN.finditer(sent)]
    if pointer:
        spans = [f"{pointer} := {span}" for span in spans]
    assert spans, f"line {line}: nothing is sent"
    return Row(line, sent, tuple(spans), int(status or 0), code.strip("`"), answer.replace("\\|", "|"))


def _unpadded(span: str) -> str:
    """CommonMark takes one space from each side of a code span that has both."""
    is_padded = len(span) > 2 and span[0] == span[-1] == " "
    return (span[1:-1] if is_padded else span).replace("\\|", "|")


def expand(text: str, names: Names) -> bytes:
    """Returns the bytes that a text stands for: its own, with the inserts in angle brackets carried out."""
    pieces: list[bytes] = []
    at = 0
    for found in _INSERT.finditer(text):
        pieces += [text[at : found.start()].encode(), _insert(found[1], names)]
        at = found.end()
    return b"".join([*pieces, text[at:].encode()])


def _insert(what: str, names: Names) -> bytes:
    times = _TIMES.fullmatch(what)
    if times is not None:
        return int(times[1]) * times[2].replace("\\r\\n", "\r\n").encode()
    if what.startswith("hex "):
        return bytes.fromhex(what[4:])
    if what.startswith("U+"):
        return "".join(chr(int("0x" + point[2:], 0)) for point in what.split()).encode()
    if what in ("space", "crlf"):
        return {"space": b" ", "crlf": b"\r\n"}[what]
    assert what in names, f"the page names {what!r}, which nobody made"
    return names[what].encode()


def apply(request: Request, change: str, names: Names) -> Request:
    """Returns the request with one change of the notation."""
    if change.startswith("body = "):
        return replace(request, body=expand(change[7:], names))
    if change == "- body":
        return replace(request, body=None)
    if change.startswith("- /"):
        return _with_member(request, change[2:], None, is_removed=True)
    if found := re.match(r"(/\S*) (:?=) (.*)", change, re.DOTALL):
        text = expand(found[3], names).decode()
        return _with_member(request, found[1], text if found[2] == ":=" else json.loads(text))
    if found := re.fullmatch(r"([A-Z]+) ([/*?].*)", change, re.DOTALL):
        path = expand(found[2], names)
        if path.startswith(b"?"):
            path = request.path + path
        return replace(request, method=found[1], path=path)
    if change.startswith("- "):
        name = change[2:].encode()
        return replace(request, headers=(*_without(request.headers, name), (name, b"\0absent")))
    is_added, bare = change.startswith("+ "), change.removeprefix("+ ")
    name_text, colon, value = bare.partition(":")
    assert colon, f"{change!r} is no change"
    header = expand(name_text, names), expand(value.removeprefix(" "), names)
    kept = request.headers if is_added else _without(request.headers, header[0])
    return replace(request, headers=(*kept, header))


def _without(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(header for header in headers if header[0].lower() != name.lower())


def _with_member(request: Request, pointer: str, value: object, *, is_removed: bool = False) -> Request:
    tree: Any = json.loads(request.body or b"{}")
    *parents, last = [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]
    at = tree
    for step in parents:
        at = at.setdefault(step, {})
    if is_removed:
        del at[last]
    else:
        at[last] = value
    return replace(request, body=json.dumps(tree).encode())
