"""Frames: what is not exactly ours is refused by name, and no bytes bring a reader down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.command import Command, CommandKind
from schemas.delivery import Delivery, EventPosition
from schemas.errors import UnreadableRecord
from schemas.wire import records, store_rows
from schemas.wire.frame import Frame
from schemas.wire.records import COMMAND, DELIVERY, decode_event, decode_work

DELIVERED = Delivery(
    "dlv_1", "evt_1", "ep_1", "tenant", "a.b", "", b"{}", b"12345678", 1, EventPosition(0, 1), 2
)
RAW = DELIVERY.encode(DELIVERED)
FRAMES = [
    value for module in (records, store_rows) for value in vars(module).values() if isinstance(value, Frame)
]


def test_no_two_kinds_share_a_letter() -> None:
    letters = [frame.prefix[:1] for frame in FRAMES]
    assert len(FRAMES) == 18
    assert len(set(letters)) == len(letters)


def test_a_record_of_another_version_is_refused_by_name() -> None:
    newer = RAW[:1] + b"\x02" + RAW[2:]
    with pytest.raises(UnreadableRecord, match=r"expected a Delivery .* got b'D\\x02': written by another"):
        decode_work(newer)


def test_work_is_a_delivery_or_a_command() -> None:
    command = Command(CommandKind.CANCEL, "dlv_1", "ep_1", "someone")
    assert decode_work(RAW) == DELIVERED
    assert decode_work(COMMAND.encode(command)) == command


def test_a_record_may_grow_at_its_end_within_a_version() -> None:
    """The array's length is its third byte; a newer writer adds a field that this reader does not know."""
    assert RAW[2] == 0x9B
    assert decode_work(RAW[:2] + b"\x9c" + RAW[3:] + b"\xc3") == DELIVERED


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"D",
        RAW[:-1],
        RAW + b"\0",
        RAW.replace(b"tenant", b"\xff\xfe\xfd\xfc\xfb\xfa"),
        RAW[:2] + b"\x9c" + RAW[3:] + b"\x91" * 100_000 + b"\xc0",
        RAW[:2] + b"\xc1",
        b"\0" * 100,
    ],
    ids=["empty", "a letter", "cut", "too long", "not UTF-8", "nested deeply", "not MessagePack", "zeros"],
)
def test_a_damaged_record_is_unreadable_and_nothing_worse(raw: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode_work(raw)


@given(st.integers(0, len(RAW) - 1), st.integers(0, 255))
def test_a_flipped_byte_never_brings_a_reader_down(place: int, byte: int) -> None:
    damaged = RAW[:place] + bytes((byte,)) + RAW[place + 1 :]
    try:
        decode_work(damaged)
    except UnreadableRecord as error:
        assert str(error)  # noqa: PT017 - reading it may succeed as well: a body's byte is anybody's


@given(st.sampled_from([frame.prefix for frame in FRAMES]), st.binary(max_size=60))
def test_no_bytes_bring_any_reader_down(prefix: bytes, rest: bytes) -> None:
    for frame in FRAMES:
        try:
            frame.decode(prefix + rest)
        except UnreadableRecord:
            continue
        assert frame.prefix == prefix


@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_bring_the_event_reader_down(raw: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode_event(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"tenant_id": "t", "type": "a", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"tenant_id": "t", "type": "a", "data": 1, "v": 2}',
        b'{"tenant_id": "t", "type": "\xff", "data": 1}',
        b'{"tenant_id": "t", "type": "\\ud800", "data": 1}',
        b'{"tenant_id": "t", "data": 1}',
    ],
    ids=["deep", "a newer version", "not UTF-8", "half a character", "a field is missing"],
)
def test_a_hostile_event_is_unreadable(raw: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode_event(raw)
