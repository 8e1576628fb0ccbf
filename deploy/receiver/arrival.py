"""An arrival: one request as a receiver saw it, in memory and as a line of JSON.

The line holds the body's digest, not the body: the two sides are compared by it, and a record of a million
arrivals stays readable.
"""

from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

UNCHECKED: Final = "unchecked"
"""The verdict when the receiver knows no secret."""


class Arrival(Struct, frozen=True):
    """One request that was received completely.

    Attributes:
        received_at_ns: UTC.
        path: with the query, as asked.
        headers: in wire order, names in lower case.
        verdict: of `operators.signing.Verdict`, or `unchecked`.
        status: what was answered; None when it was left hanging.
        number: how many requests this path has had, this one included.
    """

    received_at_ns: int
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    verdict: str
    status: int | None
    number: int

    def header(self, name: str) -> str:
        """Returns the first value of a header, empty when it is missing; the name in lower case."""
        return next((value for known, value in self.headers if known == name), "")

    @property
    def webhook_id(self) -> str:
        """The event's id."""
        return self.header("webhook-id")


class ArrivalLine(Struct, frozen=True):
    """An arrival in a JSON lines file."""

    received_at_ns: int
    path: str
    headers: tuple[tuple[str, str], ...]
    body_sha256: str
    body_bytes: int
    verdict: str
    status: int | None
    number: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ArrivalLine).decode


def encode_line(arrival: Arrival) -> bytes:
    """Returns one line, with its end."""
    line = ArrivalLine(
        received_at_ns=arrival.received_at_ns,
        path=arrival.path,
        headers=arrival.headers,
        body_sha256=sha256(arrival.body).hexdigest(),
        body_bytes=len(arrival.body),
        verdict=arrival.verdict,
        status=arrival.status,
        number=arrival.number,
    )
    return _encode(line) + b"\n"


def decode_line(raw: bytes) -> ArrivalLine:
    """Returns what a line says.

    Raises:
        msgspec.MsgspecError: a cut or foreign line.
    """
    return _decode(raw)
