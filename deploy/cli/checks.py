"""Commands for whoever changes Hooktide: `test`, which is what CI runs, and `test-deps` before it."""

import os
from typing import Annotated

import typer

from deploy.checks import run_checks
from deploy.system_parts import SystemPartMissing, install_system_parts

app = typer.Typer()


@app.command("test", context_settings={"ignore_unknown_options": True})
def run_tests(
    pytest_args: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PYTEST_ARGS]...", help="Handed on to pytest, as in -k breaker."),
    ] = None,
) -> None:
    """Check form, lint, types and import contracts, and run all tests (CI=true: nothing may be missing)."""
    raise typer.Exit(run_checks(os.environ.get("CI") == "true", pytest_args or []))


@app.command("test-deps")
def install_parts() -> None:
    """Install the system parts that some tests need (Node.js, strace, a C compiler; apt-get as root)."""
    try:
        install_system_parts()
    except SystemPartMissing as missing:
        typer.echo(f"hooktide: {missing}", err=True)
        raise typer.Exit(1) from missing
