"""The keys of a shard's store: big-endian, so that byte order is the order of age.

| family | key |
|---|---|
| `pending`, `ready` | endpoint id · 0 · lane (1 byte) · deliveries offset (8) |
| `due` | next attempt, ms (8) · endpoint id · 0 · lane (1) · offset (8) |
| `outbox` | sequence (8) |
| `endpoints` | endpoint id |
| `seen.<generation>` | delivery id |
| `meta` | a name |
"""

from struct import Struct as Packer

_TAIL = Packer(">BQ")
_U64 = Packer(">Q")
_TAIL_BYTES = 1 + _TAIL.size  # the zero byte, the lane, the offset

META_STAMP = b"stamp"
META_POSITION = b"position"
META_LOG = b"log"
"""The id of the log that the store belongs to, as it is."""


def work_key(endpoint_id: str, lane: int, offset: int) -> bytes:
    """Returns the key of a delivery's row in `pending` and `ready`."""
    return endpoint_id.encode() + b"\0" + _TAIL.pack(lane, offset)


def lane_end(endpoint_id: str, lane: int) -> bytes:
    """Returns the exclusive end of one lane's rows."""
    return endpoint_id.encode() + b"\0" + bytes((lane + 1,))


def after_endpoint(endpoint_id: str) -> bytes:
    """Returns a key behind every row of the endpoint and before those of any other."""
    return endpoint_id.encode() + b"\x01"


def parse_work_key(key: bytes) -> tuple[str, int, int]:
    """Returns (endpoint id, lane, offset)."""
    lane, offset = _TAIL.unpack_from(key, len(key) - _TAIL.size)
    return key[:-_TAIL_BYTES].decode(), lane, offset


def due_key(next_attempt_at_ms: int, endpoint_id: str, lane: int, offset: int) -> bytes:
    """Returns the key of a delivery's row in `due`."""
    return _U64.pack(next_attempt_at_ms) + work_key(endpoint_id, lane, offset)


def due_time(at_ms: int) -> bytes:
    """Returns the lowest `due` key of a moment."""
    return _U64.pack(max(at_ms, 0))


def parse_due_key(key: bytes) -> tuple[int, bytes]:
    """Returns (next attempt's time in ms, the `pending` key)."""
    return _U64.unpack_from(key)[0], key[8:]


def outbox_key(sequence: int) -> bytes:
    """Returns the key of an outbox row."""
    return _U64.pack(sequence)


def parse_outbox_key(key: bytes) -> int:
    """Returns the sequence of an outbox row's key."""
    (sequence,) = _U64.unpack(key)
    return int(sequence)
