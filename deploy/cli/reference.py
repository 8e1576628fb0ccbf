"""The reference of the command line, made from the commands: `python -m deploy.cli.reference > docs/cli.md`.

A test compares the page with what this makes, so the page cannot fall behind. Rejected: typer's own
generator (a second tool, and its pages show every type and no environment variable).
"""

import inspect
import sys
from collections.abc import Iterator
from typing import Any, Final

import typer

from deploy.cli.__main__ import app

_HEAD: Final = """\
# The command line

Made from the commands by `python -m deploy.cli.reference`; change them, not this page.

On the machine where `./hooktide up` runs, in its directory, nothing needs to be said: commands find in the
data directory where it listens, and its key. Elsewhere `HOOKTIDE_URL`, `HOOKTIDE_KEY` and
`HOOKTIDE_TENANT` say it, or the flags `--url`, `--key` and `--tenant`, which are stronger.

`--json` prints what the API answered, for programs: one document, or one a line where a command goes on
(`tail`, `listen`). On a pipe tables have no colours and no cut columns; `NO_COLOR` takes the colours away
on a terminal, too. Results go to stdout. Errors go to stderr, each one sentence after `hooktide:` that says
what to do.

`./hooktide --install-completion` teaches your shell the commands.

## Exit codes

| code | means |
|---|---|
| 0 | done; for `verify`, `doctor`, `config check`, `demo`: all is well |
| 1 | the API refused it; or a check failed: a wrong signature, an unfit machine, two sides that differ |
| 2 | a flag, an argument or a setting is wrong |
| 3 | it cannot be done here now: nothing answers at the URL, a port is taken, a data directory is in use |
| 70 | `up` only: it stood still and ended itself |
| 130 | Ctrl-C ended it before it was done; `up`: a second one (`listen`, `tail` and a first one: 0) |

`docs/settings.md` says more about those of `up`.

## Commands
"""


def reference() -> str:
    """Returns the page, in Markdown."""
    root: Any = typer.main.get_command(app)
    commands = list(_commands(root, ()))
    lines = [_HEAD]
    lines += [
        f"- [`{' '.join(path)}`](#{'-'.join(path)}): {_first_line(command)}" for path, command in commands
    ]
    for path, command in commands:
        lines += ["", *_section(path, command)]
    return "\n".join(lines) + "\n"


def _commands(group: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401 - typer's own click has no public names
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, (*above, name))
        else:
            yield (*above, name), command


def _section(path: tuple[str, ...], command: Any) -> Iterator[str]:  # noqa: ANN401 - as above
    parameters = [one for one in command.params if one.name != "help"]
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option"]
    yield f"### {' '.join(path)}"
    yield ""
    words = ["./hooktide", *path, *map(_placed, arguments), *(["[OPTIONS]"] if options else [])]
    yield f"`{' '.join(words)}`"
    yield ""
    yield inspect.cleandoc(command.help or "")
    if parameters:
        yield ""
        yield "| argument or option | what it does |"
        yield "|---|---|"
        for one in (*arguments, *options):
            yield f"| `{_spelled(one)}` | {_explained(one)} |"


def _placed(argument: Any) -> str:  # noqa: ANN401 - as above
    name = _metavar(argument)
    return name if name.startswith("[") or argument.required else f"[{name}]"


def _spelled(parameter: Any) -> str:  # noqa: ANN401 - as above
    if parameter.param_type_name == "argument":
        return _metavar(parameter).replace("|", "\\|")
    names = ", ".join(sorted(parameter.opts, key=len))
    return names if parameter.is_flag else f"{names} {_metavar(parameter)}".replace("|", "\\|")


def _metavar(parameter: Any) -> str:  # noqa: ANN401 - as above
    if parameter.metavar:
        return str(parameter.metavar)
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    annotation = str(parameter.type_descriptor.annotation)
    return "N" if "int" in annotation else "X" if "float" in annotation else "TEXT"


def _explained(parameter: Any) -> str:  # noqa: ANN401 - as above
    text = str(parameter.help or "").replace("|", "\\|")
    notes = []
    if parameter.param_type_name == "option":
        if parameter.required:
            notes.append("required")
        elif not parameter.is_flag and parameter.default not in (None, "", (), []):
            notes.append(f"default {parameter.default}")
    if getattr(parameter, "envvar", None):
        notes.append(f"`{parameter.envvar}`")
    return text + (f" ({', '.join(notes)})" if notes else "")


def _first_line(command: Any) -> str:  # noqa: ANN401 - as above
    return str(command.help or "").strip().split("\n", 1)[0]


if __name__ == "__main__":
    sys.stdout.write(reference())
