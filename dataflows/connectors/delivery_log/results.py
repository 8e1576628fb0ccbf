"""Rows of an answer, from ClickHouse's JSONCompact: it names the types, so times become integers again.

JSON is text: a String column with bytes that are no UTF-8 comes back with replacement characters. Whoever
reads a column of bytes selects `hex(column)`; that is plain SQL, and the same through every
driver.

Rejected: RowBinary and Native (a decoder per type in Python, slower than the C parser of JSON), Arrow (chdb
turns its answer into a table through pandas, which we do not install).
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def rows_of(answer: bytes) -> list[dict[str, Any]]:
    """Returns one dict a row; DateTime and DateTime64 are integer milliseconds UTC, 64-bit integers are int.

    The answer must have been made with `date_time_output_format = 'iso'` and unquoted 64-bit integers.
    """
    if not answer:
        return []
    parsed = json.loads(answer)
    names = [column["name"] for column in parsed["meta"]]
    rows = parsed["data"]
    for index, column in enumerate(parsed["meta"]):
        convert = _converter(column["type"])
        if convert is not None:
            for row in rows:
                row[index] = convert(row[index])
    return [dict(zip(names, row, strict=True)) for row in rows]


def _converter(type_name: str) -> Callable[[Any], Any] | None:
    if type_name.startswith(("DateTime", "Nullable(DateTime")):
        return _ms
    if type_name.startswith("Array("):
        inner = _converter(type_name[len("Array(") : -1])
        return None if inner is None else lambda items: [inner(item) for item in items]
    return None


def _ms(text: str | None) -> int | None:
    return None if text is None else (datetime.fromisoformat(text) - _EPOCH) // _MS
