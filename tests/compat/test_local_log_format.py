"""The local log's bytes are a contract: what an older version stored, this one reads.

`local_log_v1.json` was written once. When this test fails the format has changed: raise the version and read
both.
"""

import json
from pathlib import Path

import msgspec

from dataflows.connectors.log import local_keys
from dataflows.connectors.log.local_keys import FormatRow, PartitionState, TopicNumber
from dataflows.connectors.log.port import GroupOffset

GOLDEN = Path(__file__).with_name("local_log_v1.json")
NOW_MS = 1_700_000_000_000
PREFIX = local_keys.partition_prefix(3, 258)


def produced() -> dict[str, str]:
    """Returns every kind of row, hexadecimal."""
    state = PartitionState("deliveries", 258, PREFIX, None, start=7)
    rows = {
        "record key": local_keys.record_key(PREFIX, 1 << 33),
        "record": local_keys.encode_record(NOW_MS, b"dlv_1", b'{"a":1}'),
        "record without key": local_keys.encode_record(NOW_MS, None, b""),
        "tombstone": local_keys.encode_record(NOW_MS, b"", None),
        "latest key": PREFIX + b"ep_1",
        "latest": local_keys.pack_u64(9),
        "grave key": local_keys.grave_key(PREFIX, 1, 9),
        "grave": local_keys.encode_grave(NOW_MS, b"ep_1"),
        "state key": local_keys.state_key(PREFIX),
        "state": local_keys.encode_state(state, 8, NOW_MS),
        "group key": local_keys.group_key("route", PREFIX),
        "group": local_keys.encode_group(GroupOffset(9, "stamp ü")),
        "commit key": local_keys.pack_u64(12),
        "format key": local_keys.FORMAT_KEY,
        "format": msgspec.json.encode(FormatRow(1, "local-00ff", {"events": TopicNumber(1, 8)})),
    }
    return {name: row.hex() for name, row in rows.items()}


def test_the_bytes_are_what_they_always_were() -> None:
    assert produced() == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_the_golden_bytes_are_read_back() -> None:
    golden = {
        name: bytes.fromhex(row) for name, row in json.loads(GOLDEN.read_text(encoding="utf-8")).items()
    }
    assert local_keys.offset_of(golden["record key"]) == 1 << 33
    assert local_keys.decode_record(1, golden["record"]) == (1, NOW_MS, b"dlv_1", b'{"a":1}')
    assert local_keys.decode_record(2, golden["record without key"]) == (2, NOW_MS, None, b"")
    assert local_keys.decode_record(3, golden["tombstone"]) == (3, NOW_MS, b"", None)
    assert local_keys.timestamp_of(golden["record"]) == NOW_MS
    assert local_keys.decode_grave(golden["grave"]) == (NOW_MS, b"ep_1")
    assert local_keys.decode_state(golden["state"]) == (7, 8, NOW_MS)
    assert local_keys.decode_group_key(golden["group key"]) == ("route", PREFIX)
    assert local_keys.decode_group(golden["group"]) == GroupOffset(9, "stamp ü")
    assert msgspec.json.decode(golden["format"], type=FormatRow).topics == {"events": TopicNumber(1, 8)}
