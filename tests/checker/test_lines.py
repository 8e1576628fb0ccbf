"""The lines of a history: what is written is read again, and a cut line is not taken for a whole one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.checker import history as h
from deploy.checker.check import check
from deploy.checker.lines import decode_line, decode_lines, encode_line
from deploy.checker.report import Verdict
from schemas.errors import UnreadableRecord
from tests.checker.reference_model import make_history


@given(st.integers(0, 2**32))
def test_a_history_survives_its_lines(seed: int) -> None:
    records = make_history(seed)
    lines = [encode_line(record) for record in records]

    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    assert list(decode_lines(lines)) == records
    assert [decode_line(line) for line in lines] == records


def test_every_kind_of_record_says_its_type() -> None:
    kinds = {type(record) for seed in range(50) for record in make_history(seed)}

    assert kinds == {*h.SOURCE_OF, h.Run, h.End}


@given(st.integers(0, 200), st.data())
def test_a_file_cut_anywhere_is_unknown(seed: int, data: st.DataObject) -> None:
    raw = b"".join(encode_line(record) for record in make_history(seed))
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]

    assert check(decode_lines(cut.splitlines(keepends=True))).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("raw", [b"", b"{", b"{}\n", b'{"type":"nothing"}\n', b'{"type":"end"}\n', b"\xff\n"])
def test_a_foreign_line_is_refused(raw: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode_line(raw)


def test_a_foreign_line_is_named_by_its_number() -> None:
    good = encode_line(make_history(3)[0])
    with pytest.raises(UnreadableRecord, match="line 2"):
        list(decode_lines([good, b"{}\n", good]))
