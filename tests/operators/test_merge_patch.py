"""RFC 7396: its own table of examples, and what holds for every document and patch."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.merge_patch import merge_patch

# RFC 7396 appendix A, line by line.
EXAMPLES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

_names = st.sampled_from("abcd")
_scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x"])
json_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_names, inner, max_size=3)
)
objects = st.dictionaries(_names, json_values, max_size=3)


@pytest.mark.parametrize(("document", "patch", "merged"), EXAMPLES)
def test_the_examples_of_the_rfc(document: Any, patch: Any, merged: Any) -> None:  # noqa: ANN401
    assert merge_patch(document, patch) == merged


@given(json_values, json_values)
def test_a_patch_applied_twice_is_a_patch_applied_once(document: Any, patch: Any) -> None:  # noqa: ANN401
    once = merge_patch(document, patch)
    assert merge_patch(once, patch) == once


@given(json_values, json_values)
def test_neither_argument_is_changed(document: Any, patch: Any) -> None:  # noqa: ANN401
    before = copy.deepcopy((document, patch))
    merge_patch(document, patch)
    assert (document, patch) == before


@given(objects, objects)
def test_each_member_is_kept_removed_or_merged(document: dict[str, Any], patch: dict[str, Any]) -> None:
    merged = merge_patch(document, patch)
    for name in document.keys() | patch.keys():
        if name not in patch:
            assert merged[name] == document[name]
        elif patch[name] is None:
            assert name not in merged
        else:
            assert merged[name] == merge_patch(document.get(name), patch[name])
    assert merged.keys() <= document.keys() | patch.keys()
