"""The frame around every value of ours: one letter for the kind, one byte for the version, then MessagePack.

A reader that meets a letter or version it does not know refuses by name instead of guessing. `array_like`
structs may grow at the end (with defaults) inside one version; anything else raises the version.

Rejected: JSON for the inner topics (three times the size and time, and bytes need base64); protobuf (a code
generator for a dozen records).
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import msgpack

from schemas.errors import UnreadableRecord

T = TypeVar("T", bound=msgspec.Struct)
_encode = msgpack.Encoder().encode


class Frame(Generic[T]):
    """Encodes and decodes one kind of record.

    Args:
        kind: one ASCII letter, unique among `schemas.wire.records`.
        version: 0-255.
        record: the struct type.
        older: versions that this one only grew from: their bytes are read too.
    """

    __slots__ = ("_decode", "_older", "name", "prefix")

    def __init__(self, kind: str, version: int, record: type[T], older: Sequence[int] = ()) -> None:
        self.prefix = kind.encode("ascii") + bytes((version,))
        self._older = tuple(kind.encode("ascii") + bytes((number,)) for number in older)
        self.name = record.__name__
        self._decode = msgpack.Decoder(record).decode

    def encode(self, record: T) -> bytes:
        """Returns prefix + MessagePack."""
        return self.prefix + _encode(record)

    def decode(self, raw: bytes) -> T:
        """Returns the record.

        Raises:
            UnreadableRecord: another kind, another version, or a damaged record.
        """
        if raw[:2] != self.prefix and raw[:2] not in self._older:
            message = (
                f"expected a {self.name} ({self.prefix!r}), got {raw[:2]!r}: written by another version?"
            )
            raise UnreadableRecord(message)
        try:
            return self._decode(memoryview(raw)[2:])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            message = f"a {self.name} record of {len(raw)} bytes does not decode: {error}"
            raise UnreadableRecord(message) from error
