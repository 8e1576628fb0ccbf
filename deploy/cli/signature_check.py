"""What `verify` finds out: which secret signed, or why none did, with the mistakes that people really make.

The verdict is the one of the receivers' own function. When the signature is wrong, the same body is tried
as editors, shells and frameworks change it: a line's end added, CRLF, JSON parsed and printed again. A hint
is given only when such a variation makes the signature right, so it is a proof and not a guess.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from operators.signing import TOLERANCE_S, Verdict, decode_secret
from operators.signing import verify as judge
from schemas.errors import BadInput

_ANY_S: Final = 1 << 60
_NAMES: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")


class Check(Struct, frozen=True):
    """What was found; `secret_number` counts the given secrets from 1, None when none signed."""

    verdict: str
    secret_number: int | None
    sentence: str

    @property
    def is_ok(self) -> bool:
        """Whether a receiver would take it."""
        return self.verdict == Verdict.OK


def read_headers(raw: bytes) -> dict[str, str]:
    """Returns headers by lower-case name, from `Name: value` lines or a JSON object.

    Raises:
        BadInput: it is neither.
    """
    text = raw.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        try:
            return {str(name).lower(): str(value) for name, value in json.loads(text).items()}
        except ValueError as error:
            raise BadInput(
                f"--header-file holds neither JSON nor lines of `Name: value` ({error})"
            ) from error
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def check(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[str],
    *,
    any_age: bool = False,
    now_s: int | None = None,
) -> Check:
    """Judges a webhook.

    Args:
        headers: names in lower case.
        body: as received.
        secrets: in their text form.
        any_age: takes a timestamp of any age.
        now_s: the receiver's clock; None: now.

    Raises:
        BadInput: a secret is none.
    """
    decoded = []
    for number, secret in enumerate(secrets, 1):
        try:
            decoded.append(decode_secret(secret.strip()))
        except BadInput as error:
            raise BadInput(f"--secret (number {number}) is not right: {error}") from error
    now_s = int(time.time()) if now_s is None else now_s
    tolerance_s = _ANY_S if any_age else TOLERANCE_S
    verdict = judge(headers, body, decoded, now_s, tolerance_s)
    signer = next((at for at, one in enumerate(decoded, 1) if _signed(headers, body, one)), None)
    return Check(verdict.value, signer, _sentence(verdict, signer, headers, body, decoded, now_s))


def _sentence(
    verdict: Verdict,
    number: int | None,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[bytes],
    now_s: int,
) -> str:
    match verdict:
        case Verdict.OK:
            return f"The signature is right; secret {number} of {len(secrets)} made it."
        case Verdict.MISSING_HEADER:
            missing = ", ".join(name for name in _NAMES if not headers.get(name))
            return f"A header is missing: {missing}. All three have to be there."
        case Verdict.MALFORMED:
            return (
                "The headers cannot be read: webhook-timestamp is whole seconds, and webhook-signature is "
                "`v1,` and base64, several of them with spaces between; a shell may have taken some."
            )
        case Verdict.TOO_OLD | Verdict.TOO_NEW:
            off_s = abs(now_s - int(headers["webhook-timestamp"]))
            side = "old" if verdict is Verdict.TOO_OLD else "ahead of this machine's clock"
            rest = (
                f"apart from that it is right (secret {number}); --any-age looks past the time"
                if number
                else "and the signature is wrong as well; --any-age says more about it"
            )
            return f"The timestamp is {off_s} s {side}, and {TOLERANCE_S} s are allowed; {rest}."
        case Verdict.BAD_SIGNATURE:
            for changed, what in _variations(body):
                if any(_signed(headers, changed, secret) for secret in secrets):
                    return f"The signature is wrong because the body was changed: {what}."
            return (
                "The signature is wrong: another secret made it, or the body or a header was changed on the "
                "way. Compare the secret with the endpoint's, and keep the raw bytes of the body."
            )


def _variations(body: bytes) -> Iterator[tuple[bytes, str]]:
    stripped = body.rstrip(b"\r\n")
    yield stripped, "a line's end was added (an editor or `echo` does that; `printf %s` does not)"
    yield body + b"\n", "the line's end was taken away (`$(...)` does that)"
    yield body.replace(b"\r\n", b"\n"), "line ends became CRLF"
    yield body.replace(b"\n", b"\r\n"), "CRLF became plain line ends"
    yield body.removeprefix(b"\xef\xbb\xbf"), "a byte order mark was put in front"
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return
    what = "it is the same JSON, parsed and printed again; keep the raw bytes instead"
    for separators in ((",", ":"), (", ", ": ")):
        for is_ascii in (False, True):
            text = json.dumps(document, separators=separators, ensure_ascii=is_ascii)
            yield text.encode("utf-8", "surrogatepass"), what


def _signed(headers: Mapping[str, str], body: bytes, secret: bytes) -> bool:
    return judge(headers, body, [secret], 0, _ANY_S) is Verdict.OK
