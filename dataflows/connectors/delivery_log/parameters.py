"""Values of `{name:Type}` query parameters, as the texts that ClickHouse's parameter parser takes.

The engine substitutes parameters after it parsed the statement, so a value can never become SQL. What is
left to get right is one level of escaping, and it is done here and nowhere else: a parameter's text is read
as one tab-separated cell, in which a backslash starts an escape; strings inside an array are quoted
besides. The declared type stands in the statement, and a value is checked against it, because the engine
would take 300 for a UInt8 as 44.
"""

import re
from collections.abc import Mapping
from typing import Any

_DECLARED = re.compile(r"\{\s*([A-Za-z_]\w*)\s*:\s*([^{}]+?)\s*\}")
_INTEGER = re.compile(r"(U?)Int(8|16|32|64)")
# Tab, newline and backslash end or start something in a cell; NUL and carriage return are made visible
# besides.
_CELL = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})
_QUOTED = _CELL | str.maketrans({"'": "\\'"})


def declared_types(sql: str) -> dict[str, str]:
    """Returns the parameters that a statement names, with their types."""
    return dict(_DECLARED.findall(sql))


def parameter_texts(sql: str, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Returns every parameter as the engine's text for it. Times are integer milliseconds UTC, from 1970.

    Raises:
        ValueError: the statement does not name it, or the value does not fit the declared type.
    """
    declared = declared_types(sql)
    if missing := declared.keys() ^ parameters.keys():
        raise ValueError(f"parameters and statement differ in {sorted(missing)}")
    return {name: _text(name, declared[name], value) for name, value in parameters.items()}


def _text(name: str, type_name: str, value: object) -> str:
    outer, _, rest = type_name.partition("(")
    if outer == "Nullable":
        return "\\N" if value is None else _text(name, rest[:-1], value)
    if outer == "Array" and isinstance(value, list | tuple):
        if rest[:-1] != "String":
            return f"[{','.join([_text(name, rest[:-1], item) for item in value])}]"
        return f"[{','.join([_quoted(name, item) for item in value])}]"
    if type_name == "String" and isinstance(value, str):
        return value.translate(_CELL)
    if type_name == "Bool" and isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and not isinstance(value, bool):
        if outer == "DateTime64" and value >= 0:  # the engine's parser drops the sign of -0.001
            return _seconds(value)
        if (integer := _INTEGER.fullmatch(type_name)) and value in _range(integer):
            return str(value)
    raise ValueError(f"parameter {name}: {value!r} is not a {type_name}")


def _range(integer: re.Match[str]) -> range:
    bits = int(integer[2])
    return range(1 << bits) if integer[1] else range(-(1 << bits - 1), 1 << bits - 1)


def _quoted(name: str, item: object) -> str:
    if not isinstance(item, str):
        raise ValueError(f"parameter {name}: {item!r} is not a String")  # noqa: TRY004 - one error for all misfits
    return f"'{item.translate(_QUOTED)}'"


def _seconds(at_ms: int) -> str:
    """Seconds with three decimals: independent of any time zone, and never taken for another unit."""
    return f"{at_ms // 1000:010d}.{at_ms % 1000:03d}"
