"""Rejected records: kept whole while that is possible, the same for the same record."""

from operators.rejection import DETAIL_CHARS_MAX, VALUE_BYTES_MAX, reject, rejected_key
from schemas.wire.records import REJECTED


def test_a_record_is_kept_as_it_came() -> None:
    kept = reject("events", 3, 7, 42, b"key", b"\xff", "unreadable", "why")
    assert (kept.key, kept.value, kept.at_ms, kept.reason, kept.detail) == (
        b"key",
        b"\xff",
        42,
        "unreadable",
        "why",
    )
    assert rejected_key(kept) == b"events/3/7"
    assert reject("events", 3, 7, 42, None, None, "unreadable", "why").value is None


def test_hostile_sizes_are_cut_and_said_so() -> None:
    kept = reject("events", 0, 0, 0, b"k" * 10_000_000, b"v" * 10_000_000, "unreadable", "d" * 10_000_000)
    assert kept.value == b"v" * VALUE_BYTES_MAX
    assert len(kept.detail) <= DETAIL_CHARS_MAX
    assert "10000000 bytes" in kept.detail
    assert len(REJECTED.encode(kept)) <= 2 * VALUE_BYTES_MAX + DETAIL_CHARS_MAX + 100
