"""The bytes of topics and stores are a contract: what an older version wrote, this one reads.

The golden files were written once. When a test fails here, its message says what to do.
"""

import pytest
from msgspec import Struct, structs

from schemas.shard_claim import UNSAID
from schemas.wire import records, store_rows
from schemas.wire.frame import Frame
from schemas.wire.records import decode_event
from tests.compat import golden_records as samples
from tests.compat.golden_records import complain, golden, produced


def test_the_bytes_are_what_they_always_were() -> None:
    complaints = [
        complaint
        for (group, version), now in produced().items()
        for complaint in complain(group, version, now, golden(group, version))
    ]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    ("group", "frame", "record"),
    [(samples.TOPICS, *pair) for pair in samples.RECORDS] + [(samples.STORE, *pair) for pair in samples.ROWS],
    ids=lambda value: value.name if isinstance(value, Frame) else "",
)
def test_the_golden_bytes_are_read_back(group: str, frame: Frame[Struct], record: Struct) -> None:
    held = golden(group, frame.prefix[1])[frame.name]
    assert frame.decode(bytes.fromhex(held)) == record


def test_bytes_of_a_version_that_only_grew_are_read_back() -> None:
    (claim,) = [record for frame, record in samples.RECORDS if frame is records.SHARD_CLAIM]
    held = golden(samples.TOPICS, 1)["ShardClaim"]
    assert records.SHARD_CLAIM.decode(bytes.fromhex(held)) == structs.replace(claim, after=UNSAID)


def test_bytes_of_before_and_after_a_record_grew_are_read() -> None:
    for name, frame, record in samples.GROWN:
        held = golden(samples.TOPICS, frame.prefix[1])
        assert frame.decode(bytes.fromhex(held[name])) == record
        assert name != frame.name, "the bytes of before are held under the record's own name"
        assert held[name] != held[frame.name]


def test_the_golden_event_is_read_back() -> None:
    held = golden(samples.TOPICS, records.EVENT_VERSION)["Event"]
    event = decode_event(bytes.fromhex(held))
    assert bytes(event.data) == bytes(samples.EVENT.data)
    assert structs.replace(event, data=samples.EVENT.data) == samples.EVENT


def test_every_kind_of_record_and_row_is_held() -> None:
    for module, pairs in ((records, samples.RECORDS), (store_rows, samples.ROWS)):
        frames = {id(value) for value in vars(module).values() if isinstance(value, Frame)}
        assert {id(frame) for frame, _ in pairs} == frames, module.__name__


def test_samples_fill_every_field() -> None:
    """A field that stands at its default everywhere would not show a change of its place or form."""
    grown = [record for _, _, record in samples.GROWN]
    at_default: dict[str, bool] = {}
    for record in [*(record for _, record in [*samples.RECORDS, *samples.ROWS]), *grown]:
        for part in [record, *_structs_in(record)]:
            for field in structs.fields(part):
                if not field.required:
                    name = f"{type(part).__name__}.{field.name}"
                    is_default = getattr(part, field.name) == field.default
                    at_default[name] = at_default.get(name, True) and is_default
    assert [name for name, is_default in at_default.items() if is_default] == []


def _structs_in(record: Struct) -> list[Struct]:
    return [value for value in structs.asdict(record).values() if isinstance(value, Struct)]


class Before(Struct, frozen=True, array_like=True):
    first: int
    second: str


class After(Struct, frozen=True, array_like=True):
    second: str
    first: int


def test_a_change_without_a_new_version_is_refused_with_what_to_do() -> None:
    held = {"Thing": Frame("t", 1, Before).encode(Before(1, "x")).hex()}
    now = {"Thing": Frame("t", 1, After).encode(After("x", 1)).hex()}

    assert complain(samples.STORE, 1, held, held) == []
    (complaint,) = complain(samples.STORE, 1, now, held)
    assert "the bytes of Thing have changed, but its version is still 1" in complaint
    assert "raise the version in schemas/wire, read both, keep shard_rows_v1.json" in complaint
    (complaint,) = complain(samples.STORE, 2, now, {})
    assert "has no golden bytes of version 2: run `python -m tests.compat.golden_records`" in complaint
