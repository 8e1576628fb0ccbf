"""Ids, and the functions that derive them from their parts.

Nothing downstream of the API draws at random: doing the same work twice gives the same ids, which makes the
second time recognisable. So an id is a hash of its parts, and the parts are length-prefixed, because `("a",
"bc")` and `("ab", "c")` must not meet. Base32 (RFC 4648, lower case, no padding) keeps ids safe in URLs, file
names and headers, and of one length (30 characters for `evt_` and `dlv_`).

Rejected: random UUIDs (a repeat after a crash would be a new thing), hexadecimal (a quarter longer).
"""

from hashlib import blake2b
from zlib import crc32

EVENT_PREFIX = "evt_"
DELIVERY_PREFIX = "dlv_"
ENDPOINT_PREFIX = "ep_"
_UNIT = 1 << 53  # what a float holds exactly: with 64 bits the highest values would round up to 1.0

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
# Ten bits a look-up: 13 look-ups for 128 bits, three times as fast as base64.b32encode.
_PAIRS = tuple(first + second for first in _BASE32 for second in _BASE32)
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def base32_128(digest: bytes) -> str:
    """Returns 16 bytes as 26 lower-case base32 characters (RFC 4648 alphabet, no padding)."""
    bits = int.from_bytes(digest, "big") << 2
    pairs = _PAIRS
    return (
        pairs[bits >> 120]
        + pairs[bits >> 110 & 1023]
        + pairs[bits >> 100 & 1023]
        + pairs[bits >> 90 & 1023]
        + pairs[bits >> 80 & 1023]
        + pairs[bits >> 70 & 1023]
        + pairs[bits >> 60 & 1023]
        + pairs[bits >> 50 & 1023]
        + pairs[bits >> 40 & 1023]
        + pairs[bits >> 30 & 1023]
        + pairs[bits >> 20 & 1023]
        + pairs[bits >> 10 & 1023]
        + pairs[bits & 1023]
    )


def _hash_parts(*parts: str) -> bytes:
    framed = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (part.encode() for part in parts))
    return blake2b(framed, digest_size=16).digest()


def event_id_from_key(tenant_id: str, idempotency_key: str) -> str:
    """Returns the one event id that this tenant's idempotency key names, for ever."""
    return EVENT_PREFIX + base32_128(_hash_parts("key", tenant_id, idempotency_key))


def event_id_from_position(cluster_id: str, topic: str, partition: int, offset: int) -> str:
    """Returns the id of an event that came without id and key: its position in the log names it.

    `route` and `record` both call this, so they agree without talking to each other.
    """
    return EVENT_PREFIX + base32_128(_hash_parts("position", cluster_id, topic, str(partition), str(offset)))


def time_ordered_id(prefix: str, now_ms: int, entropy: bytes) -> str:
    """Returns `prefix` + a ULID (48 bits of time, 80 of chance) in lower case: sorts by creation time.

    Args:
        prefix: for example `evt_` or `ep_`.
        now_ms: milliseconds UTC, from the caller's clock.
        entropy: 10 random bytes, from the caller.

    Source: the ULID specification, https://github.com/ulid/spec.
    """
    bits = (now_ms & (1 << 48) - 1) << 80 | int.from_bytes(entropy[:10], "big")
    return prefix + "".join(_CROCKFORD[bits >> shift & 31] for shift in range(125, -1, -5))


def delivery_id(event_id: str, endpoint_id: str, replay_id: str = "") -> str:
    """Returns the id of the delivery of one event to one endpoint; a replay is a delivery of its own."""
    event, endpoint, replay = event_id.encode(), endpoint_id.encode(), replay_id.encode()
    framed = b"%d:%b%d:%b%d:%b" % (len(event), event, len(endpoint), endpoint, len(replay), replay)
    return DELIVERY_PREFIX + base32_128(blake2b(framed, digest_size=16).digest())


def attempt_id(of_delivery: str, number: int) -> str:
    """Returns the id of the `number`-th recorded attempt (from 1). Never used as a `webhook-id`."""
    return f"{of_delivery}.{number}"


def content_digest(event_type: str, data: bytes) -> bytes:
    """Returns 8 bytes that name the accepted type and data; never computed from rendered bytes."""
    return blake2b(event_type.encode() + b"\0" + data, digest_size=8).digest()


def partition_of(key: str, partition_count: int) -> int:
    """Returns the partition (0 <= p < `partition_count`) of a tenant id or endpoint id.

    CRC-32 is fixed for ever, the same on every machine and fast; the choice is part of the topic format.
    """
    return crc32(key.encode()) % partition_count


def unit_interval(*parts: str) -> float:
    """Returns a number in [0, 1) drawn from the parts: chance that repeats (jitter, spread)."""
    digest = blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / _UNIT
