"""The real payloads that stand beside this file: all of them, or one by the name of what happened."""

import difflib
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Raw, Struct

from schemas.errors import BadInput

_FILE: Final = Path(__file__).with_name("github-events.jsonl")
_PREFIX: Final = "github."


class _Line(Struct, frozen=True):
    type: str
    data: Raw


class Sample(Struct, frozen=True):
    """One payload: the type of its event, and JSON as it was written."""

    type: str
    data: bytes


@cache
def all_samples() -> tuple[Sample, ...]:
    """Returns every payload, in the order of the file."""
    lines = msgspec.json.Decoder(_Line).decode_lines(_FILE.read_bytes())
    return tuple(Sample(line.type, bytes(line.data)) for line in lines)


def find_sample(name: str) -> Sample:
    """Returns the first payload of a name.

    Args:
        name: `push`, `issues.opened` or `github.issues.opened`; `issues` is the first of `issues.*`.

    Raises:
        BadInput: there is none; the sentence names the nearest.
    """
    wanted = name.removeprefix(_PREFIX)
    samples = {sample.type.removeprefix(_PREFIX): sample for sample in reversed(all_samples())}
    names = sorted(samples)
    found = (
        wanted if wanted in samples else next((one for one in names if one.startswith(f"{wanted}.")), None)
    )
    if found is None:
        near = difflib.get_close_matches(wanted, names, 3, 0.5) or [
            "push",
            "issues.opened",
            "release.published",
        ]
        raise BadInput(f"there is no sample {name}; there are {', '.join(near)} and {len(names)} in all")
    return samples[found]
