"""`python -m deploy.docs build`: builds the documentation site into `site/`."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.docs.site import build_site
from schemas.errors import HooktideError

ROOT = Path(__file__).resolve().parent.parent.parent

app = typer.Typer(add_completion=False)


@app.callback()
def explain() -> None:
    """Handle the documentation site."""


@app.command()
def build(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Replaced by the built site.")] = ROOT / "site",
) -> None:
    """Build the site; a link that leads nowhere is an error."""
    try:
        count = build_site(ROOT, output)
    except HooktideError as error:
        typer.echo(f"hooktide: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{count} pages in {output}")


if __name__ == "__main__":
    app(prog_name="python -m deploy.docs")
