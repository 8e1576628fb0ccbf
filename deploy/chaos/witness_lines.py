"""The witness's file: a line when a request was received, another when it was answered.

Two lines and not one, because what was received counts even when the sender, or the answer, is gone: the
first line is on its way to the disk before anything is decided about the answer. The two meet again here.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from deploy.checker.history import Arrival, End, Source
from schemas.errors import HooktideError


class Received(Struct, frozen=True, array_like=True, tag="r", gc=False):
    """A complete request; `number` counts from 0."""

    number: int
    at_ns: int
    wall_at_ms: int
    path: str
    webhook_id: str
    webhook_timestamp_s: int
    body_sha256: str
    verdict: str
    connection: int


class Answered(Struct, frozen=True, array_like=True, tag="a", gc=False):
    """Its answer, stamped before it is written; without a status it was cut off by us."""

    number: int
    at_ns: int
    status: int | None
    is_written: bool
    retry_after_ms: int = 0


class Finished(Struct, frozen=True, array_like=True, tag="e"):
    """The last line: the witness was stopped in peace, and wrote everything."""

    received: int
    at_ns: int


Line = Received | Answered | Finished
_decode = msgspec.json.Decoder(Line).decode
_encode = msgspec.json.Encoder().encode


class WitnessFileError(HooktideError):
    """The witness's file does not read as one was written."""


def encode_witness_line(line: Line) -> bytes:
    """Returns the line with its end."""
    return _encode(line) + b"\n"


def read_arrivals(file: Path) -> Iterator[Arrival | End]:
    """Yields the arrivals in order, and the end when the witness reached it.

    Raises:
        WitnessFileError: a line that is none.
    """
    received: list[Received] = []
    answers: dict[int, Answered] = {}
    finished: Finished | None = None
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            if not raw.endswith(b"\n"):
                break
            try:
                line = _decode(raw)
            except msgspec.MsgspecError as error:
                raise WitnessFileError(f"line {number} of {file}: {error}") from error
            if isinstance(line, Received):
                received.append(line)
            elif isinstance(line, Answered):
                answers[line.number] = line
            else:
                finished = line
    for one in received:
        yield _arrival(one, answers.get(one.number))
    if finished is not None:
        yield End(Source.WITNESS, finished.received, finished.at_ns)


def _arrival(one: Received, answer: Answered | None) -> Arrival:
    status = None if answer is None else answer.status
    return Arrival(
        one.at_ns,
        answer.at_ns if answer is not None and status is not None else None,
        one.path,
        one.webhook_id,
        one.webhook_timestamp_s,
        one.wall_at_ms,
        one.body_sha256,
        one.verdict,
        status,
        answer is not None and answer.is_written,
        one.connection,
        0 if answer is None else answer.retry_after_ms,
    )
