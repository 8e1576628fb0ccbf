"""Reads the settings: a TOML file, the environment, the flags, each stronger than the one before.

The environment is read by pydantic-settings, and all of it is judged here, because a person who mistyped
`prot` has to learn three things that no library says together: what is wrong, where it stands, and what it
was probably meant to be. So every value carries its origin until the end, and every name is looked up before
any value is.

All faults are reported at once. Rejected: stopping at the first (a start per mistake), and ignoring unknown
names in the environment as pydantic-settings does (the setting that silently does nothing).
"""

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource

from schemas.errors import BadSettings
from schemas.settings import Section, Settings

CONFIG_FILE: Final = "hooktide.toml"
ENV_PREFIX: Final = "HOOKTIDE__"
_DELIMITER: Final = "__"
_SECRET_NAMES: Final = frozenset({"master_key"})
_MASK: Final = "********"
_VALUE_CHARS_MAX: Final = 60
_STOP_MARGIN_MS: Final = 5_000
_TIMEOUT_MS_MIN: Final = 100

Name = tuple[str, ...]


class Flag(NamedTuple):
    """A setting given on the command line.

    Attributes:
        name: of the setting, dotted, as in `api.port`.
        spelling: of the flag, as in `--port`.
        value: None when the flag was not given.
    """

    name: str
    spelling: str
    value: Any


class _Given(NamedTuple):
    """A value, and where it stands."""

    value: Any
    origin: str


class _EnvironmentSource(EnvSettingsSource):
    """Reads lists as people write them: JSON, or with commas. What is neither is left for the validation."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: str) -> Any:  # noqa: ANN401
        """Called for each value that is no scalar."""
        del field_name, field
        try:
            decoded = json.loads(value)
        except ValueError:
            decoded = [part.strip() for part in value.split(",")]
        return decoded if isinstance(decoded, dict | list) else [decoded]


def load_settings(flags: tuple[Flag, ...] = (), config: Path | None = None) -> Settings:
    """Returns the settings in force.

    Args:
        flags: the strongest source.
        config: a TOML file that must be there; None: `hooktide.toml` in the current directory, if it is.

    Raises:
        BadSettings: with one sentence a line, one for each fault.
    """
    return _judged(flags, config)[0]


class Explained(NamedTuple):
    """A setting in force.

    Attributes:
        value: as JSON would say it; a secret that was given is masked.
        origin: `default`, the file, the variable or the flag that it comes from.
    """

    name: str
    value: Any
    origin: str


def explain_settings(flags: tuple[Flag, ...] = (), config: Path | None = None) -> list[Explained]:
    """Returns every setting in force, in the order of `schemas/settings.py`.

    Args:
        flags, config: as of `load_settings`.

    Raises:
        BadSettings: as `load_settings`.
    """
    settings, given = _judged(flags, config)
    explained = []
    for name, _ in _leaves(Settings):
        value: Any = settings.model_dump(mode="json")
        for part in name:
            value = value[part]
        if name[-1] in _SECRET_NAMES and value:
            value = _MASK
        origin = given[name].origin if name in given else "default"
        explained.append(Explained(".".join(name), value, origin))
    return explained


def _judged(flags: tuple[Flag, ...], config: Path | None) -> tuple[Settings, dict[Name, _Given]]:
    faults: list[str] = []
    given: dict[Name, _Given] = {}
    for source in (_of_file(config, faults), _of_environment(faults), _of_flags(flags)):
        given |= source
    tree: dict[str, Any] = {}
    for name, one in given.items():
        branch = tree
        for part in name[:-1]:
            branch = branch.setdefault(part, {})
        branch[name[-1]] = one.value
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        faults += [_sentence(detail, given) for detail in error.errors(include_url=False)]
    if settings is not None:
        faults += [_fault(name, given, what) for name, what in _contradictions(settings)]
    if faults or settings is None:
        raise BadSettings("\n".join(faults))
    return settings, given


def known_names() -> list[str]:
    """Returns every setting's dotted name, in the order of `schemas/settings.py`."""
    return [".".join(name) for name, _ in _leaves(Settings)]


def environment_name(name: str) -> str:
    """Returns how a setting is called in the environment."""
    return ENV_PREFIX + name.upper().replace(".", _DELIMITER)


def _of_file(config: Path | None, faults: list[str]) -> dict[Name, _Given]:
    file = Path(CONFIG_FILE) if config is None else config
    if config is None and not file.exists():
        return {}
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSettings(f"the settings file {file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadSettings(f"the settings file {file} is not text in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"the settings file {file} is not TOML: {error}") from error
    return dict(_flatten(tree, Settings, (), lambda _: str(file), faults))


def _of_environment(faults: list[str]) -> dict[Name, _Given]:
    """Reads the environment; the names that pydantic-settings passes over are faults."""
    shown = {name.upper(): name for name in os.environ if name.upper().startswith(ENV_PREFIX)}
    for upper, name in shown.items():
        first = upper.removeprefix(ENV_PREFIX).split(_DELIMITER)[0].lower()
        if first not in Settings.model_fields:
            faults.append(_unknown(upper.removeprefix(ENV_PREFIX).lower().replace(_DELIMITER, "."), name))
    looked_for = create_model("looked_for", __base__=BaseSettings, **_field_definitions())
    source = _EnvironmentSource(
        looked_for, case_sensitive=False, env_prefix=ENV_PREFIX, env_nested_delimiter=_DELIMITER
    )

    def origin_of(name: Name) -> str:
        whole = environment_name(".".join(name))
        return shown.get(whole, shown.get(environment_name(name[0]), whole))

    return dict(_flatten(source(), Settings, (), origin_of, faults))


def _field_definitions() -> dict[str, Any]:
    """Returns the fields of `Settings` in the form that makes a model of another base."""
    return {name: (field.annotation, field) for name, field in Settings.model_fields.items()}


def _of_flags(flags: tuple[Flag, ...]) -> dict[Name, _Given]:
    return {
        tuple(flag.name.split(".")): _Given(flag.value, flag.spelling)
        for flag in flags
        if flag.value is not None
    }


def _flatten(
    tree: Mapping[str, Any],
    model: type[BaseModel],
    above: Name,
    origin_of: Callable[[Name], str],
    faults: list[str],
) -> Iterator[tuple[Name, _Given]]:
    """Yields the known settings of a tree; notes what has no known name."""
    for key, value in tree.items():
        name = (*above, key)
        field = model.model_fields.get(key)
        section = _section_of(field)
        if field is None:
            faults.append(_unknown(".".join(name), origin_of(name)))
        elif section is None:
            yield name, _Given(value, origin_of(name))
        elif isinstance(value, Mapping):
            yield from _flatten(value, section, name, origin_of, faults)
        else:
            faults.append(
                f"{'.'.join(name)} (from {origin_of(name)}) is a section: write {'.'.join(name)}."
                f"{next(iter(section.model_fields))} or another one of its settings"
            )


def _leaves(model: type[BaseModel], above: Name = ()) -> Iterator[tuple[Name, FieldInfo]]:
    for key, field in model.model_fields.items():
        section = _section_of(field)
        if section is None:
            yield (*above, key), field
        else:
            yield from _leaves(section, (*above, key))


def _section_of(field: FieldInfo | None) -> type[Section] | None:
    kind = None if field is None else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _unknown(name: str, origin: str) -> str:
    names = known_names() + [one for one in Settings.model_fields if _section_of(Settings.model_fields[one])]
    ends = {known.rsplit(".", 1)[-1]: known for known in names}
    near = difflib.get_close_matches(name, names, 1) or [
        ends[end] for end in difflib.get_close_matches(name.rsplit(".", 1)[-1], ends, 1)
    ]
    hint = f"did you mean {near[0]}?" if near else "docs/settings.md lists them all"
    return f"{name} (from {origin}) is no setting; {hint}"


def _sentence(detail: ErrorDetails, given: Mapping[Name, _Given]) -> str:
    """Says what a validation found: the setting, its value, where it stands, and what it must be."""
    location = tuple(str(part) for part in detail["loc"])
    name = next((known for known in given if known == location[: len(known)]), location)
    what = detail["msg"].replace("Input should be", "it must be").replace("Value error, ", "")
    return _fault(name, given, what[:1].lower() + what[1:])


def _fault(name: Name, given: Mapping[Name, _Given], what: str) -> str:
    one = given.get(name)
    value = "" if one is None or name[-1] in _SECRET_NAMES else f" = {_shown(one.value)}"
    origin = "" if one is None else f" (from {one.origin})"
    return f"{'.'.join(name)}{value}{origin} is not right: {what}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _VALUE_CHARS_MAX else text[:_VALUE_CHARS_MAX] + "..."


def _contradictions(settings: Settings) -> Iterator[tuple[Name, str]]:
    """Yields what is allowed by itself and not together with the rest of the world."""
    if not _is_loopback(settings.api.host):
        yield (
            ("api", "host"),
            "so far the API listens on loopback only (127.0.0.1); put a proxy with TLS before it",
        )
    if settings.log.url != "local:":
        yield ("log", "url"), "`up` keeps its log in the data directory, which is called `local:`"
    least_ms = _STOP_MARGIN_MS + _TIMEOUT_MS_MIN
    if settings.deliver.stop_deadline_ms < least_ms:
        yield (
            ("deliver", "stop_deadline_ms"),
            f"it must be at least {least_ms}: attempts may last {_STOP_MARGIN_MS} ms less than it",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
