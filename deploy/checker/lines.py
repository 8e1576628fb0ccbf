"""The lines of a history's file: one record each, as JSON with its type in the field `type`.

JSON and not MessagePack: a person reads the slice of a violation, and `grep` finds an event in a file of a
million lines. Decoding a line costs 1-2 us.
"""

from collections.abc import Iterable, Iterator

import msgspec

from deploy.checker.history import Record
from schemas.errors import UnreadableRecord

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def encode_line(record: Record) -> bytes:
    """Returns one line, with its end."""
    return _encoder.encode(record) + b"\n"


def decode_line(raw: bytes) -> Record:
    """Returns the record of a line.

    Raises:
        UnreadableRecord: a cut or foreign line.
    """
    try:
        return _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise UnreadableRecord(f"no record of a history: {error}: {raw[:200]!r}") from error


def decode_lines(lines: Iterable[bytes]) -> Iterator[Record]:
    """Yields the records of a file's lines.

    A last line without its line feed is left out: its source died while it wrote, and its missing `End` says
    so.

    Raises:
        UnreadableRecord: a foreign line, with its number.
    """
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            yield _decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise UnreadableRecord(f"line {number} is no record of a history: {error}") from error
