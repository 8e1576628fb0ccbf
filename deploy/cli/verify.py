"""The command `verify`: judges the signature of a received webhook, and says what went wrong."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.asking import JsonOption, sentences
from schemas.errors import BadInput

app = typer.Typer()


@app.command()
def verify(
    body: Annotated[str, typer.Argument(metavar="BODYFILE", help="The raw body as received; - for stdin.")],
    *,
    secret: Annotated[
        list[str], typer.Option(metavar="WHSEC", help="Of the endpoint; repeatable: any may have signed.")
    ],
    header_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The received headers, a line each, or as a JSON object."),
    ] = None,
    webhook_id: Annotated[str, typer.Option("--id", metavar="TEXT", help="Header webhook-id.")] = "",
    timestamp: Annotated[str, typer.Option(metavar="SECONDS", help="Header webhook-timestamp.")] = "",
    signature: Annotated[str, typer.Option(metavar="V1", help="Header webhook-signature.")] = "",
    any_age: Annotated[bool, typer.Option("--any-age", help="Take timestamps of any age.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a webhook's signature: exit code 0 when it is right, 1 when not."""
    from deploy.cli.given_json import read_given  # noqa: PLC0415 - `--help` need not wait for it
    from deploy.cli.output import print_json  # noqa: PLC0415
    from deploy.cli.signature_check import check, read_headers  # noqa: PLC0415
    from deploy.process.exit_codes import ExitCode  # noqa: PLC0415

    with sentences():
        headers = {} if header_file is None else read_headers(read_given(str(header_file)))
        flags = {"webhook-id": webhook_id, "webhook-timestamp": timestamp, "webhook-signature": signature}
        headers |= {name: value for name, value in flags.items() if value}
        if not headers:
            raise BadInput("give the headers with --header-file, or with --id, --timestamp and --signature")
        judged = check(headers, read_given(body), secret, any_age=any_age)
    if as_json:
        print_json({"verdict": judged.verdict, "secret": judged.secret_number, "detail": judged.sentence})
    else:
        typer.echo(judged.sentence)
    raise typer.Exit(ExitCode.OK if judged.is_ok else ExitCode.FAILED)
