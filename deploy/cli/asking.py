"""What every command that asks the API has in common: its options, its errors, its exit codes.

A command says `@asks_the_api` and takes an `Asking` first; the options `--url`, `--key`, `--tenant`,
`--data` and `--json` are added to its own, so that they read the same everywhere and stand in one place.
Rejected: options of the program itself (`hooktide --url ... tail`), because people add them at the end of a
line.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Final, NoReturn, ParamSpec

import typer

from schemas.errors import BadInput, HooktideError, Refused, Unavailable

if TYPE_CHECKING:
    from deploy.client.api import HooktideApi

P = ParamSpec("P")

_PANEL: Final = "Which Hooktide"

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="HOOKTIDE_URL",
        metavar="URL",
        rich_help_panel=_PANEL,
        help="Of the API; where the last `up` here listens unless given.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="HOOKTIDE_KEY",
        metavar="KEY",
        rich_help_panel=_PANEL,
        help="The bearer key; the data directory's unless given. Others can see flags: prefer the variable.",
    ),
]
TenantOption = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        envvar="HOOKTIDE_TENANT",
        metavar="ID",
        rich_help_panel=_PANEL,
        help="Whose; reads show all tenants' unless given, writes take the only one there is.",
    ),
]
LocalDataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR",
        rich_help_panel=_PANEL,
        help="The data directory whose key is taken; .hooktide-data unless set.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_SHARED: Final[dict[str, tuple[Any, Any]]] = {
    "url": (UrlOption, None),
    "key": (KeyOption, None),
    "tenant": (TenantOption, None),
    "data": (LocalDataOption, None),
    "as_json": (JsonOption, False),
}


class Asking:
    """Where a command asks, and how it prints what it learns."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.as_json: bool = given["as_json"]
        self._given = given
        self._api: HooktideApi | None = None

    @property
    def is_url_given(self) -> bool:
        """Whether somebody said where the API is."""
        return bool(self._given["url"])

    @property
    def api(self) -> "HooktideApi":
        """The API; found at the first use.

        Raises:
            HooktideError: where it is, or its key, is not known.
        """
        if self._api is None:
            from deploy.client.api import HooktideApi  # noqa: PLC0415 - `--help` need not wait for it
            from deploy.client.where import connect  # noqa: PLC0415

            given = self._given
            connection = connect(given["url"], given["key"], given["data"])
            self._api = HooktideApi(connection, given["tenant"])
        return self._api


def asks_the_api(command: Callable[Concatenate[Asking, P], None]) -> Callable[..., None]:
    """Makes a command of a function: adds the shared options, turns errors into sentences and codes."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
        for name, (option, default) in _SHARED.items()
        if name not in {one.name for one in own}  # `trigger --data` is the event's
    ]
    added = [one.name for one in shared]

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        given = dict.fromkeys(_SHARED) | {name: kwargs.pop(name) for name in added}
        with sentences():
            command(Asking(given), *args, **kwargs)

    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return run


@contextmanager
def sentences() -> Iterator[None]:
    """Ends a command with its error as a sentence on stderr, and the exit code that belongs to it."""
    try:
        yield
    except HooktideError as error:
        fail(error)


def fail(error: HooktideError) -> NoReturn:
    """Ends the command because of an error.

    Raises:
        typer.Exit: always.
    """
    from deploy.process.complaint import complain  # noqa: PLC0415 - as above
    from deploy.process.exit_codes import ExitCode  # noqa: PLC0415

    complain(str(error))
    if isinstance(error, BadInput):
        code = ExitCode.USAGE
    else:
        code = ExitCode.REFUSED if isinstance(error, Unavailable | Refused) else ExitCode.FAILED
    raise typer.Exit(code) from error
