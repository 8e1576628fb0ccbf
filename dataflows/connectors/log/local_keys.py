"""The bytes of the local log: every key and value of its database, encoded and decoded here and nowhere else.

| family | key | value |
|---|---|---|
| (default) | topic u16 · partition u16 · offset u64 | version u8 · time_ms u64 · shape u32 · key · value |
| `latest` | topic · partition · record key | offset u64 of the newest record of that key (compacted topics) |
| `graves` | topic · partition · kind u8 · offset u64 | time_ms u64 · what to drop (see `local_compaction`) |
| `groups` | name length u16 · name · topic · partition | version u8 · offset u64 · metadata (UTF-8) |
| `commits` | commit number u64 | empty: the chain that shows a missing piece (see `local_chain`) |
| `meta` | `format`, or `p` · topic · partition | JSON, or start u64 · end u64 · last time_ms u64 |

Everything is big-endian, so that byte order is offset order. Topics have numbers (a table in `format`),
because a name of ten bytes in every key would be a tenth of a small record. `shape` is `key length << 2 | has
key << 1 | has value`: a missing key or value differs from an empty one.

Rejected: one row per appended block (five times faster to write, but compaction, retention and seeking would
need to look inside); offsets as varints (they do not sort).
"""

import struct

import msgspec

from dataflows.connectors.log.port import GroupOffset, Record
from schemas.errors import DamagedStore, FormatMismatch

FORMAT_VERSION = 1
RECORD_VERSION = 1
GROUP_VERSION = 1
FORMAT_KEY = b"format"
OFFSET_END = (1 << 64) - 1
"""No record ever gets this offset: an exclusive upper bound of a partition."""

_PREFIX = struct.Struct(">HH")
_RECORD_KEY = struct.Struct(">HHQ")
_HEAD = struct.Struct(">BQI")
_STATE = struct.Struct(">QQQ")
_GROUP = struct.Struct(">BQ")
pack_u64 = struct.Struct(">Q").pack
_HAS_VALUE = 1
_HAS_KEY = 2


class TopicNumber(msgspec.Struct, frozen=True, array_like=True):
    """A topic's number in keys, and its partition count, both fixed for ever."""

    number: int
    partitions: int


class FormatRow(msgspec.Struct, frozen=True):
    """What the log says of itself: written when it is made, widened only when a new topic appears."""

    version: int
    cluster_id: str
    topics: dict[str, TopicNumber]


class PartitionState(msgspec.Struct):
    """What is known of one partition. Only the commit thread changes it; any thread reads it.

    Attributes:
        prefix: the four bytes that its keys begin with.
        end: the next offset; moved after the fsync, never before.
        last_ms: the newest record's time; it never goes back.
        retention_ms: None in a compacted topic.
    """

    name: str
    partition: int
    prefix: bytes
    retention_ms: int | None
    start: int = 0
    end: int = 0
    last_ms: int = 0


def partition_prefix(topic: int, partition: int) -> bytes:
    """Returns the first four bytes of every key of the partition."""
    return _PREFIX.pack(topic, partition)


def record_key(prefix: bytes, offset: int) -> bytes:
    """Returns the key of a record."""
    return prefix + pack_u64(offset)


def offset_of(key: bytes) -> int:
    """Returns the offset in a record's key."""
    offset: int = _RECORD_KEY.unpack(key)[2]
    return offset


def record_head(timestamp_ms: int, key: bytes | None, value: bytes | None) -> bytes:
    """Returns what stands before a record's key and value; equal for records of one shape in one group."""
    return _HEAD.pack(RECORD_VERSION, timestamp_ms, shape_of(key, value))


def shape_of(key: bytes | None, value: bytes | None) -> int:
    """Returns the shape word: key length and which of the two are there."""
    has_value = 0 if value is None else _HAS_VALUE
    return has_value if key is None else len(key) << 2 | _HAS_KEY | has_value


def encode_record(timestamp_ms: int, key: bytes | None, value: bytes | None) -> bytes:
    """Returns a record's stored value."""
    return record_head(timestamp_ms, key, value) + (key or b"") + (value or b"")


def decode_record(offset: int, raw: bytes) -> Record:
    """Returns the record of a stored value.

    Raises:
        FormatMismatch: written by another version.
        DamagedStore: too short to be a record.
    """
    try:
        version, timestamp_ms, shape = _HEAD.unpack_from(raw)
    except struct.error as error:
        raise DamagedStore(
            f"the record at offset {offset} has only {len(raw)} bytes; restore a backup"
        ) from error
    if version != RECORD_VERSION:
        raise FormatMismatch(
            f"the record at offset {offset} has format {version}, this program reads {RECORD_VERSION}"
        )
    middle = 13 + (shape >> 2)
    return Record(
        offset,
        timestamp_ms,
        raw[13:middle] if shape & _HAS_KEY else None,
        raw[middle:] if shape & _HAS_VALUE else None,
    )


def timestamp_of(raw: bytes) -> int:
    """Returns the record time (ms UTC) of a stored value, without copying the rest."""
    return int.from_bytes(raw[1:9], "big")


def encode_state(state: PartitionState, end: int, last_ms: int) -> bytes:
    """Returns the partition's `meta` value with this end and last time."""
    return _STATE.pack(state.start, end, last_ms)


def decode_state(raw: bytes) -> tuple[int, int, int]:
    """Returns start, end and last time (ms UTC) of a `meta` value."""
    start, end, last_ms = _STATE.unpack(raw)
    return start, end, last_ms


def state_key(prefix: bytes) -> bytes:
    """Returns the `meta` key of a partition."""
    return b"p" + prefix


def grave_key(prefix: bytes, kind: int, offset: int) -> bytes:
    """Returns the key of a `graves` row."""
    return prefix + bytes((kind,)) + pack_u64(offset)


def encode_grave(timestamp_ms: int, rest: bytes) -> bytes:
    """Returns the value of a `graves` row."""
    return pack_u64(timestamp_ms) + rest


def decode_grave(raw: bytes) -> tuple[int, bytes]:
    """Returns when the row was written (ms UTC), and what it says to drop."""
    return int.from_bytes(raw[:8], "big"), raw[8:]


def group_key(group: str, prefix: bytes) -> bytes:
    """Returns the key of a group's position in one partition."""
    name = group.encode()
    return len(name).to_bytes(2, "big") + name + prefix


def decode_group_key(key: bytes) -> tuple[str, bytes]:
    """Returns the group's name and the partition's prefix."""
    return key[2:-4].decode(), key[-4:]


def encode_group(position: GroupOffset) -> bytes:
    """Returns the value of a group's position."""
    return _GROUP.pack(GROUP_VERSION, position.offset) + position.metadata.encode()


def decode_group(raw: bytes) -> GroupOffset:
    """Returns a group's position.

    Raises:
        FormatMismatch: written by another version.
    """
    version, offset = _GROUP.unpack_from(raw)
    if version != GROUP_VERSION:
        raise FormatMismatch(f"a group's position has format {version}, this program reads {GROUP_VERSION}")
    return GroupOffset(offset, raw[9:].decode())
