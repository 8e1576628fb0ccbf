"""Signatures against the official library, both ways, and the text of secrets."""

import time
from base64 import b64encode
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from operators.signing import (
    SECRET_BYTES_MAX,
    SECRET_BYTES_MIN,
    TOLERANCE_S,
    Verdict,
    decode_secret,
    encode_secret,
    sign,
    verify,
)
from schemas.errors import BadInput

NOW_S = 1_750_000_000
secrets = st.binary(min_size=SECRET_BYTES_MIN, max_size=SECRET_BYTES_MAX)
ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)


def signed(body: bytes, secret: bytes, *, at_s: int = NOW_S) -> dict[str, str]:
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(at_s),
        "webhook-signature": sign("evt_1", at_s, body, [secret]),
    }


def test_the_published_vector_is_reproduced() -> None:
    # standard-webhooks/libraries/python/tests/test_webhooks.py, test_sign_function
    secret = decode_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert (
        sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body, [secret])
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@given(secrets, st.text().map(str.encode), ids)
def test_the_official_library_signs_what_we_sign(secret: bytes, body: bytes, webhook_id: str) -> None:
    theirs = Webhook(encode_secret(secret)).sign(
        webhook_id, datetime.fromtimestamp(NOW_S, UTC), body.decode()
    )
    assert theirs == sign(webhook_id, NOW_S, body, [secret])


@given(st.lists(secrets, min_size=1, max_size=3, unique=True), st.text(), ids)
def test_the_official_library_accepts_ours_with_every_active_secret(
    active: list[bytes], text: str, webhook_id: str
) -> None:
    now_s = int(time.time())
    headers = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": sign(webhook_id, now_s, text.encode(), active),
    }
    for secret in active:
        Webhook(encode_secret(secret)).verify(text, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(encode_secret(b"another" * 5)).verify(text, headers, json_parse=False)


@given(secrets, st.text(), ids)
def test_we_accept_what_the_official_library_signs(secret: bytes, text: str, webhook_id: str) -> None:
    theirs = Webhook(encode_secret(secret)).sign(webhook_id, datetime.fromtimestamp(NOW_S, UTC), text)
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(NOW_S), "webhook-signature": theirs}
    assert verify(headers, text.encode(), [b"x" * 32, secret, b"y" * 32], NOW_S) is Verdict.OK
    headers["webhook-signature"] = f"v1,AAAA {theirs} v1,BBBB"
    assert verify(headers, text.encode(), [secret], NOW_S) is Verdict.OK


@given(secrets, st.binary(max_size=200), st.data())
def test_one_changed_bit_of_the_body_is_noticed(secret: bytes, body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(body) * 8))
    changed = bytearray(body + b"\0")
    changed[at // 8] ^= 1 << at % 8
    assert verify(signed(body, secret), body, [secret], NOW_S) is Verdict.OK
    assert verify(signed(body, secret), bytes(changed), [secret], NOW_S) is Verdict.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("offset_s", "verdict"),
    [
        (0, Verdict.OK),
        (TOLERANCE_S, Verdict.OK),
        (TOLERANCE_S + 1, Verdict.TOO_OLD),
        (-TOLERANCE_S, Verdict.OK),
        (-TOLERANCE_S - 1, Verdict.TOO_NEW),
    ],
)
def test_the_timestamp_may_be_five_minutes_away(offset_s: int, verdict: Verdict) -> None:
    assert verify(signed(b"{}", b"s" * 32), b"{}", [b"s" * 32], NOW_S + offset_s) is verdict


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("value", [None, ""])
def test_each_header_must_be_there(missing: str, value: str | None) -> None:
    headers = signed(b"{}", b"s" * 32)
    del headers[missing]
    if value is not None:
        headers[missing] = value
    assert verify(headers, b"{}", [b"s" * 32], NOW_S) is Verdict.MISSING_HEADER


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("webhook-timestamp", f"+{NOW_S}", Verdict.MALFORMED),
        ("webhook-timestamp", f" {NOW_S}", Verdict.MALFORMED),
        ("webhook-timestamp", f"{NOW_S}.0", Verdict.MALFORMED),
        ("webhook-timestamp", "1_750_000_000", Verdict.MALFORMED),
        ("webhook-timestamp", "\u0661" * 10, Verdict.MALFORMED),
        ("webhook-timestamp", "9" * 5_000, Verdict.MALFORMED),
        # The text is signed, so another spelling of the same number has another signature.
        ("webhook-timestamp", f"0{NOW_S}", Verdict.BAD_SIGNATURE),
        ("webhook-id", "evt_\u00e9", Verdict.MALFORMED),
        ("webhook-id", "evt_2", Verdict.BAD_SIGNATURE),
        ("webhook-signature", "nonsense", Verdict.MALFORMED),
        ("webhook-signature", "v1a,AAAA", Verdict.MALFORMED),
        ("webhook-signature", "v1,", Verdict.BAD_SIGNATURE),
        ("webhook-signature", "v1,\udcff\u20ac", Verdict.BAD_SIGNATURE),
        ("webhook-signature", "v1," + "A" * 100_000, Verdict.BAD_SIGNATURE),
    ],
)
def test_hostile_headers_get_a_verdict_and_raise_nothing(name: str, value: str, verdict: Verdict) -> None:
    headers = signed(b"{}", b"s" * 32) | {name: value}
    assert verify(headers, b"{}", [b"s" * 32], NOW_S) is verdict


def test_a_signature_of_a_version_we_do_not_know_beside_ours_does_no_harm() -> None:
    headers = signed(b"{}", b"s" * 32)
    headers["webhook-signature"] = "v1a,AAAA v2,BBBB " + headers["webhook-signature"]
    assert verify(headers, b"{}", [b"s" * 32], NOW_S) is Verdict.OK


def test_without_a_secret_nothing_is_accepted() -> None:
    assert verify(signed(b"{}", b"s" * 32), b"{}", [], NOW_S) is Verdict.BAD_SIGNATURE


@given(secrets)
def test_a_secret_survives_its_text(secret: bytes) -> None:
    assert encode_secret(secret).startswith("whsec_")
    assert decode_secret(encode_secret(secret)) == secret


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must start with whsec_"),
        ("c2VjcmV0" * 6, "must start with whsec_"),
        ("WHSEC_" + "c2VjcmV0" * 6, "must start with whsec_"),
        ("whsec_", "has 0 bytes"),
        (encode_secret(b"s" * (SECRET_BYTES_MIN - 1)), "has 23 bytes"),
        (encode_secret(b"s" * (SECRET_BYTES_MAX + 1)), "has 65 bytes"),
        ("whsec_" + "c2VjcmV0" * 6 + "\n", "not base64"),
        ("whsec_" + "c2VjcmV-" * 6, "not base64"),
        ("whsec_" + b64encode(b"s" * 32).decode().rstrip("="), "not base64"),
        ("whsec_" + "\u00e9" * 40, "not base64"),
    ],
)
def test_a_bad_secret_is_refused_with_words_that_do_not_repeat_it(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        decode_secret(text)
    tail = text.removeprefix("whsec_").strip()
    assert not tail or tail not in str(caught.value)
    assert caught.value.__cause__ is None
