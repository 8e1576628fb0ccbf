"""The command `key show`: prints a data directory's admin key and nothing else, so that `$(...)` takes it."""

import typer

from deploy.cli.asking import JsonOption
from deploy.cli.up import ConfigOption, DataOption

app = typer.Typer()
_key = typer.Typer(no_args_is_help=True)
app.add_typer(_key, name="key")


@_key.callback()
def _explain() -> None:
    """Handle the admin key of a data directory."""


@_key.command()
def show(data: DataOption = None, config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """Print the admin key: the bearer key of the whole API, so mind who looks."""
    from deploy.process.load_settings import Flag  # noqa: PLC0415 - as in `up`
    from deploy.process.show_key import show_key  # noqa: PLC0415

    raise typer.Exit(show_key((Flag("data", "--data", data),), config, as_json=as_json))
