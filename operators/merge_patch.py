"""JSON Merge Patch: what a document becomes when a patch is laid over it.

Source: RFC 7396 section 2.
"""

from collections.abc import Mapping
from typing import Any


def merge_patch(document: Any, patch: Any) -> Any:  # noqa: ANN401 - JSON is what it is
    """Returns the patched document; neither argument is changed.

    Args:
        document: any JSON value.
        patch: an object sets members, and null removes them; anything else replaces the document.
    """
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(document) if isinstance(document, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged
