"""`verify` says the truth about a signature, and why it is wrong."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.checks import ROOT
from deploy.cli.signature_check import check, read_headers
from operators.signing import decode_secret, sign
from schemas.errors import BadInput

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_plJ3nmyCDGBKInavdOK15jsl4x0WQxPV"
BODY = b'{"type": "order.created", "data": {"caf\xc3\xa9": 7}}'
NOW_S = 1_790_000_000


def headers(body: bytes = BODY, secret: str = SECRET, at_s: int = NOW_S) -> dict[str, str]:
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(at_s),
        "webhook-signature": sign("evt_1", at_s, body, [decode_secret(secret)]),
    }


def test_it_says_which_secret_signed() -> None:
    found = check(headers(), BODY, [OTHER, SECRET], now_s=NOW_S)

    assert (found.is_ok, found.secret_number) == (True, 2)
    assert "secret 2 of 2" in found.sentence


@pytest.mark.parametrize(
    ("received", "hint"),
    [
        (BODY + b"\n", "a line's end was added"),
        (BODY.replace(b": ", b":").replace(b", ", b","), "parsed and printed again"),
        (json.dumps(json.loads(BODY)).encode(), "parsed and printed again"),
        (b"\xef\xbb\xbf" + BODY, "byte order mark"),
        (BODY.replace(b"7", b"8"), "another secret made it, or the body"),
    ],
)
def test_it_recognises_how_the_body_was_changed(received: bytes, hint: str) -> None:
    found = check(headers(), received, [SECRET], now_s=NOW_S)

    assert (found.verdict, found.secret_number) == ("bad_signature", None)
    assert hint in found.sentence


@pytest.mark.parametrize(
    ("off_s", "verdict"), [(301, "too_old"), (-301, "too_new"), (300, "ok"), (-300, "ok")]
)
def test_it_keeps_apart_what_is_old_and_what_is_wrong(off_s: int, verdict: str) -> None:
    right = check(headers(), BODY, [SECRET], now_s=NOW_S + off_s)
    wrong = check(headers(), BODY, [OTHER], now_s=NOW_S + off_s)

    assert right.verdict == verdict
    assert not wrong.is_ok
    if verdict != "ok":
        assert "apart from that it is right (secret 1)" in right.sentence
        assert "wrong as well" in wrong.sentence
        assert check(headers(), BODY, [SECRET], any_age=True, now_s=NOW_S + off_s).is_ok


def test_headers_are_read_from_lines_and_from_json() -> None:
    lines = b"POST /hooks HTTP/1.1\r\nWebhook-Id: evt_1\r\nwebhook-signature:v1,a= \r\n"

    assert read_headers(lines)["webhook-id"] == "evt_1"
    assert read_headers(lines)["webhook-signature"] == "v1,a="
    assert read_headers(b'{"Webhook-Id": "evt_1"}') == {"webhook-id": "evt_1"}
    with pytest.raises(BadInput):
        read_headers(b"{")


def test_a_bad_secret_is_named_by_its_number_and_not_shown() -> None:
    with pytest.raises(BadInput, match=r"number 2") as refused:
        check(headers(), BODY, [SECRET, "whsec_abc!"], now_s=NOW_S)

    assert "abc" not in str(refused.value)


def test_the_command_answers_with_its_exit_code(tmp_path: Path) -> None:
    now_s = int(time.time())
    (tmp_path / "headers").write_text(
        "".join(f"{name}: {value}\n" for name, value in headers(at_s=now_s).items())
    )
    command = [sys.executable, "-m", "deploy.cli", "verify", "-", "--header-file", str(tmp_path / "headers")]

    def run(body: bytes, *arguments: str) -> tuple[int, str]:
        done = subprocess.run([*command, *arguments], input=body, cwd=ROOT, capture_output=True, check=False)
        return done.returncode, (done.stdout or done.stderr).decode()

    assert run(BODY, "--secret", SECRET)[0] == 0
    code, text = run(BODY + b"\n", "--secret", SECRET, "--json")
    assert (code, json.loads(text)["verdict"]) == (1, "bad_signature")
    assert run(BODY, "--secret", "whsec_")[0] == 2
