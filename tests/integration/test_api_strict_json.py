"""The strict reader takes what RFC 8259 and I-JSON take, and refuses the rest, whatever shortcut it takes."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.strict_json import DEPTH_MAX, NotStrictJsonError, read

REFUSED = {
    "empty": b"",
    "cut": b'{"a":1',
    "two values": b"{} {}",
    "trailing comma": b"[1,]",
    "comment": b"/**/1",
    "single quotes": b"{'a':1}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"a":1}'.encode("utf-16"),
    "leading zero": b"01",
    "plus": b"+1",
    "bare point": b"1.",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "1e400": b"1e400",
    "-1e400": b"-1e400",
    "1e400 deep inside": b'{"a":[{"b":1e400}]}',
    "5,000 digits": b"1" * 5_000,
    "raw NUL": b'"\x00"',
    "escaped NUL": b'"\\u0000"',
    "escaped NUL after an escaped backslash": b'"\\\\\\u0000"',
    "escaped NUL in a name": b'{"\\u0000":1}',
    "raw control character": b'"\x01"',
    "raw line feed": b'"\n"',
    "lone high surrogate": b'"\\ud800"',
    "lone high surrogate, text after": b'"\\ud800 and more text"',
    "lone low surrogate": b'"\\udc00"',
    "two high surrogates": b'"\\ud800\\ud800"',
    "lone surrogate in a name": b'{"\\ud800":1}',
    "surrogate as UTF-8": b'"\xed\xa0\x80"',
    "overlong UTF-8": b'"\xc0\x80"',
    "latin-1": b'"\xe9"',
    "unknown escape": b'"\\x41"',
    "duplicate": b'{"a":1,"a":1}',
    "duplicate, far": b'{"a":1,' + b",".join(b'"b%d":0' % i for i in range(999)) + b',"a":1}',
    "duplicate, spaced": b'{"a" :1,"a":2}',
    "duplicate, nested": b'{"d":[{"x":{"a":1,"a":2}}]}',
    "duplicate, one escaped": b'{"a":1,"\\u0061":2}',
    "duplicate, colon escaped": b'{"a:":1,"a\\u003a":2}',
    "duplicate, hidden by an escaped colon": b'{"a":1,"a":"\\u003a"}',
    "duplicate, hidden by an escaped capital": b'{"a":1,"a":"\\u003A"}',
    "duplicate with a large integer": b'{"a":1,"a":111111111111111111111111}',
    "too deep": b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1),
    "too deep, objects": b'{"a":' * (DEPTH_MAX + 1) + b"1" + b"}" * (DEPTH_MAX + 1),
    "too deep by far": b"[" * 100_000 + b"]" * 100_000,
}

TAKEN = {
    "deepest": b"[" * DEPTH_MAX + b"]" * DEPTH_MAX,
    "many brackets, shallow": b"[" + b",".join([b"[]"] * 500) + b"]",
    "brackets in strings": b'["' + b"[{" * 500 + b'\\"[[[\\\\"]',
    "escaped backslash before u0000": b'"\\\\u0000"',
    "surrogate pair": b'"\\ud83d\\ude00"',
    "large integer": b"111111111111111111111111111111",
    "tiny number": b"1e-400",
    "colons in strings": b'{"a:b":"c:d",":":"\\":"}',
    "escaped colon": b'{"a":"\\u003a","b":"\\u003A"}',
    "spaces": b' \t\r\n{ "a" : [ 1 , 2 ] } ',
    "names equal in different objects": b'[{"a":1},{"a":{"a":2}}]',
    "scalar": b"null",
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_what_parsers_disagree_about_is_refused(raw: bytes) -> None:
    with pytest.raises(NotStrictJsonError):
        read(raw)


@pytest.mark.parametrize("raw", TAKEN.values(), ids=TAKEN.keys())
def test_good_json_is_read_as_the_standard_library_reads_it(raw: bytes) -> None:
    assert read(raw) == json.loads(raw)


def test_the_refusal_names_the_duplicate() -> None:
    with pytest.raises(NotStrictJsonError, match="'order_id' stands twice"):
        read(b'{"order_id":1,"x":2,"order_id":3}')


TEXTS = st.text(alphabet='a":\\ [{\u00e9\U0001f600', max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(value=VALUES, is_ascii=st.booleans(), indent=st.sampled_from([None, 1]))
def test_every_json_value_is_taken(*, value: object, is_ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    assert read(text.encode()) == value


ESCAPES = {":": ("\\u003a", "\\u003A"), '"': ('\\"', "\\u0022"), " ": ("\\u0020",), "\\": ("\\\\", "\\u005c")}


@st.composite
def objects_with_pairs(draw: st.DrawFn) -> tuple[str, bool]:
    """An object's text with drawn spellings, and whether a name stands twice in it."""
    names = draw(st.lists(TEXTS, max_size=5))
    inner: list[str] = []
    for name in names:
        value = json.dumps(draw(TEXTS)) if draw(st.booleans()) else spelled(draw, draw(TEXTS))
        space = draw(st.sampled_from(["", " ", "\t"]))
        inner.append(f"{spelled(draw, name)}{space}:{space}{value}")
    return "{" + ",".join(inner) + "}", len(set(names)) != len(names)


def spelled(draw: st.DrawFn, text: str) -> str:
    parts = [
        draw(st.sampled_from(ESCAPES[char] + ((char,) if char in ": " else ()))) if char in ESCAPES else char
        for char in text
    ]
    return '"' + "".join(parts) + '"'


@given(objects_with_pairs())
def test_a_duplicate_is_found_in_every_spelling_and_nothing_else_is(drawn: tuple[str, bool]) -> None:
    text, has_duplicate = drawn
    raw = text.encode()
    assert msgspec.json.decode(raw) == json.loads(raw), "the test writes JSON"
    if has_duplicate:
        with pytest.raises(NotStrictJsonError, match="stands twice"):
            read(raw)
    else:
        assert read(raw) == json.loads(raw)
