"""Whether every answer that promises durability was given after the sync that makes it true.

A pure function over the system calls of a process. An answer is found in what was written to clients'
connections; its record in what was written to the log's write-ahead files, by a text that the record alone
contains; and between the two there has to be an fsync or fdatasync of that file that began after the write
had returned, and returned, without an error, before the first byte of the answer was handed over.
"""

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

from tests.conformance.system_calls import SYNCS, WRITES, Call

PROMISES = (201, 202)
_HEAD = re.compile(
    rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n.*?content-length: (\d+)\r\n.*?\r\n\r\n", re.DOTALL | re.IGNORECASE
)
_WAL_HEADER_BYTES = 7
"""RocksDB puts one between two parts of a record where a block of 32 KiB ends, in the middle of a text."""


class Answer(NamedTuple):
    """An answer as it was written to a client.

    Attributes:
        began: the place of the call that handed its first byte over.
    """

    status: int
    id: str
    began: int


class Verdict(NamedTuple):
    """What came out: how many answers were judged, and what is wrong with which."""

    judged: int
    violations: list[str]


class _Stream:
    """What was written to one target, and which call wrote which part of it."""

    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls
        self.data = b"".join(call.data for call in calls)
        self._ends = list(accumulate(len(call.data) for call in calls))

    def call_at(self, position: int) -> Call:
        return self._calls[bisect_right(self._ends, position)]


def judge(calls: Iterable[Call], port: int, texts: Mapping[str, str]) -> Verdict:
    """Judges every 201 and 202 that the port answered.

    Args:
        calls: in the order in which they returned.
        port: of the API, on loopback.
        texts: by id of an answer, a text that the log's record holds and that no earlier record does.
    """
    streams: dict[str, list[Call]] = defaultdict(list)
    syncs: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.name in WRITES and call.result > 0:
            streams[call.target].append(call)
        elif call.name in SYNCS and call.result == 0:
            syncs[call.target].append(call)
    logs = {target: _Stream(written) for target, written in streams.items() if _is_log(target)}
    here = f"TCP:[127.0.0.1:{port}->"
    judged, violations = 0, []
    for target, written in streams.items():
        if not target.startswith(here):
            continue
        for answer in _answers(_Stream(written)):
            judged += 1
            complaint = _complaint(answer, logs, syncs, texts)
            if complaint is not None:
                violations.append(f"{answer.status} {answer.id}: {complaint}")
    return Verdict(judged, violations)


def _complaint(
    answer: Answer, logs: Mapping[str, _Stream], syncs: Mapping[str, list[Call]], texts: Mapping[str, str]
) -> str | None:
    found = [
        (target, stream.call_at(match.end() - 1))
        for target, stream in logs.items()
        if (match := _split_anywhere(texts[answer.id].encode()).search(stream.data)) is not None
    ]
    if not found:
        return "its record was never written to the log"
    target, written = min(found, key=lambda each: each[1].ended)
    if written.ended > answer.began:
        return f"its record was written at line {written.ended + 1}, answered at line {answer.began + 1}"
    if not any(sync.began > written.ended and sync.ended < answer.began for sync in syncs.get(target, ())):
        return f"no sync between its write, line {written.ended + 1}, and its answer, line {answer.began + 1}"
    return None


def _answers(stream: _Stream) -> Iterator[Answer]:
    for head in _HEAD.finditer(stream.data):
        body = stream.data[head.end() : head.end() + int(head[2])]
        if int(head[1]) in PROMISES:
            yield Answer(int(head[1]), json.loads(body)["id"], stream.call_at(head.start()).began)


def _is_log(target: str) -> bool:
    return re.search(r"/log/db/\d+\.log$", target) is not None


def _split_anywhere(text: bytes) -> re.Pattern[bytes]:
    gap = b".{%d}" % _WAL_HEADER_BYTES
    splits = [re.escape(text[:at]) + gap + re.escape(text[at:]) for at in range(1, len(text))]
    return re.compile(b"|".join([re.escape(text), *splits]), re.DOTALL)
