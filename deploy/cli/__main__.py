"""Entry of `./hooktide`: gathers the commands of the files beside it.

A file of commands offers `app`, a `typer.Typer`, and imports nothing heavy at its top: what a command needs
it imports when it runs, so that `--help` does not load ClickHouse.
"""

import typer

from deploy.cli import (
    bench,
    chaos,
    checks,
    config,
    deliveries,
    demo,
    doctor,
    endpoints,
    key,
    listen,
    tail,
    trigger,
    up,
    verify,
)

app = typer.Typer(
    name="hooktide",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (
    up,
    listen,
    demo,
    trigger,
    tail,
    endpoints,
    deliveries,
    verify,
    doctor,
    config,
    key,
    bench,
    chaos,
    checks,
):
    app.add_typer(commands.app)

if __name__ == "__main__":
    app(prog_name="hooktide")
