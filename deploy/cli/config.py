"""The commands `config show` and `config check`: which settings are in force, and where each comes from."""

from typing import Annotated

import typer

from deploy.cli.asking import JsonOption, sentences
from deploy.cli.up import ConfigOption, DataOption

app = typer.Typer()
_config = typer.Typer(no_args_is_help=True, help="Show and check the settings.")
app.add_typer(_config, name="config")


@_config.command()
def show(
    data: DataOption = None,
    config: ConfigOption = None,
    *,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not the default.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every setting with its value and its origin; secrets are not shown."""
    from deploy.cli.output import print_json, print_rows  # noqa: PLC0415 - `--help` need not wait for it
    from deploy.process.load_settings import Flag, explain_settings  # noqa: PLC0415
    from deploy.receiver.visible_text import json_text  # noqa: PLC0415

    with sentences():
        explained = explain_settings((Flag("data", "--data", data),), config)
    shown = [one for one in explained if not changed or one.origin != "default"]
    if as_json:
        print_json([{"name": one.name, "value": one.value, "origin": one.origin} for one in shown])
        return
    print_rows(
        ("setting", "value", "origin"),
        [(one.name, json_text(one.value, indent=None), one.origin) for one in shown],
        "Every setting has its default.",
    )


@_config.command()
def check(data: DataOption = None, config: ConfigOption = None, *, as_json: JsonOption = False) -> None:
    """Check the settings: exit code 2, and a sentence for each mistake, when `up` would not take them."""
    from deploy.cli.output import print_json  # noqa: PLC0415
    from deploy.process.exit_codes import ExitCode  # noqa: PLC0415
    from deploy.process.load_settings import Flag, explain_settings  # noqa: PLC0415
    from schemas.errors import BadSettings  # noqa: PLC0415

    flags = (Flag("data", "--data", data),)
    if as_json:
        try:
            explain_settings(flags, config)
        except BadSettings as error:
            print_json({"ok": False, "faults": str(error).splitlines()})
            raise typer.Exit(ExitCode.USAGE) from error
        print_json({"ok": True, "faults": []})
        return
    with sentences():
        given = [one for one in explain_settings(flags, config) if one.origin != "default"]
    typer.echo(f"The settings are right; {len(given)} of them are not the default.")
