"""What is kept of a record that could not be read: the record as it came, where it stood, and why.

The key is the position, so that rejecting the same record again (after a crash, or after a rewind) is the
same entry. A value of hostile size is cut: one that is too large for `rejected` would stop its reader for
ever.
"""

from schemas.dead_letter import Rejected

POISON = "poison"
"""The reason of a record that was parked because the process died of it again and again."""
VALUE_BYTES_MAX = 512 << 10
DETAIL_CHARS_MAX = 1_000


def reject(
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    key: bytes | None,
    value: bytes | None,
    reason: str,
    detail: str,
) -> Rejected:
    """Returns the record of `rejected`; its time is the record's own, so that a repeat is equal.

    Args:
        reason: one word for programs.
        detail: a sentence for people.
    """
    if value is not None and len(value) > VALUE_BYTES_MAX:
        detail = f"{detail[: DETAIL_CHARS_MAX - 100]} (the value of {len(value)} bytes is cut here)"
    if value is not None:
        value = value[:VALUE_BYTES_MAX]
    if key is not None:
        key = key[:VALUE_BYTES_MAX]
    return Rejected(topic, partition, offset, reason, detail[:DETAIL_CHARS_MAX], key, value, timestamp_ms)


def rejected_key(rejected: Rejected) -> bytes:
    """Returns the key of the record of `rejected`: the source position."""
    return f"{rejected.topic}/{rejected.partition}/{rejected.offset}".encode()
