"""Subscriptions: which patterns an event type matches, and which patterns are patterns at all.

The grammar has three forms: `*` (everything), an exact type (`order.created`), and a prefix with `.*`
(`order.*` matches `order.created` and `order.item.added`, not `order` itself). So the patterns that match a
type can be *listed*: a type of n segments has n + 1 of them. That turns matching into look-ups, with a cost
that does not depend on how many patterns exist, and gives the API's count and `route` the same single
answer.

Rejected: globs and regular expressions (nobody can list what they match; a hostile pattern costs seconds).
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

from schemas.event import EVENT_TYPE_CHARS_MAX, EVENT_TYPE_PATTERN

EVERYTHING = "*"
PREFIX_SUFFIX = ".*"
PATTERNS_MAX = 100

# `\Z`, not `$`: in Python `$` also matches before a line feed at the end.
_EVENT_TYPE = re.compile(EVENT_TYPE_PATTERN.removesuffix("$") + r"\Z", re.ASCII)
_CACHED_TYPES = 8_192


class PatternFault(NamedTuple):
    """Why a pattern is refused.

    Attributes:
        place: in the list, from 0; None when the list itself is at fault.
        detail: a sentence for the person who wrote it.
    """

    place: int | None
    detail: str


@lru_cache(_CACHED_TYPES)
def is_event_type(text: str) -> bool:
    """Whether the text is an event type: `EVENT_TYPE_PATTERN`, at most `EVENT_TYPE_CHARS_MAX` characters."""
    return len(text) <= EVENT_TYPE_CHARS_MAX and _EVENT_TYPE.match(text) is not None


@lru_cache(_CACHED_TYPES)
def patterns_of(event_type: str) -> tuple[str, ...]:
    """Returns every pattern that matches the type: `*`, its prefixes, the type itself."""
    patterns = [EVERYTHING]
    dot = event_type.find(".")
    while dot >= 0:
        patterns.append(event_type[:dot] + PREFIX_SUFFIX)
        dot = event_type.find(".", dot + 1)
    patterns.append(event_type)
    return tuple(patterns)


def matches(patterns: Collection[str], event_type: str) -> bool:
    """Whether one of the patterns matches the type; both are taken to be valid."""
    for pattern in patterns_of(event_type):  # noqa: SIM110 - `any` with a generator takes thrice as long
        if pattern in patterns:
            return True
    return False


def is_pattern(text: str) -> bool:
    """Whether the text is one of the three forms; the prefix of `.*` is an event type itself."""
    return text == EVERYTHING or is_event_type(text.removesuffix(PREFIX_SUFFIX))


def pattern_faults(patterns: Sequence[str]) -> list[PatternFault]:
    """Returns what is wrong with an endpoint's patterns; empty when nothing is."""
    if not patterns:
        return [PatternFault(None, f'give at least one event type; "{EVERYTHING}" subscribes to all')]
    if len(patterns) > PATTERNS_MAX:
        return [
            PatternFault(
                None, f"{len(patterns)} patterns; join them to at most {PATTERNS_MAX} by prefixes (order.*)"
            )
        ]
    return [
        PatternFault(index, _explain(pattern))
        for index, pattern in enumerate(patterns)
        if not is_pattern(pattern)
    ]


def _explain(pattern: str) -> str:
    bare = pattern.removesuffix(PREFIX_SUFFIX)
    if len(bare) > EVENT_TYPE_CHARS_MAX:
        return f"{len(bare)} characters; shorten it to at most {EVENT_TYPE_CHARS_MAX}"
    if EVERYTHING in bare:
        return f'"{pattern}": a star stands alone ("*") or at the end after a dot ("order.*")'
    return (
        f'"{pattern}" is not an event type: words of letters, digits, underscores and hyphens, joined by dots'
    )
