"""The key ring seals secrets for one endpoint and one key, and opens the ones that still sign."""

import base64
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.connectors import key_ring
from dataflows.connectors.key_ring import KeyRing
from schemas.endpoint import Endpoint, SealedSecret
from schemas.errors import BadSettings, StoreUnavailable, UnreadableRecord

NOW_MS = 1_700_000_000_000
KEY = bytes(range(32))
OTHER = bytes(range(1, 33))


def endpoint(*secrets: SealedSecret, name: str = "ep_1", revision: int = 1) -> Endpoint:
    return Endpoint(
        id=name,
        tenant_id="ten_1",
        url="https://example.com/",
        event_types=("*",),
        secrets=secrets,
        created_at_ms=NOW_MS,
        updated_at_ms=NOW_MS,
        revision=revision,
    )


@given(secret=st.binary(min_size=1, max_size=64), name=st.text(max_size=20))
def test_what_is_sealed_opens_again(secret: bytes, name: str) -> None:
    ring = KeyRing([KEY])
    sealed = ring.seal(secret, name)
    assert ring.open_secrets(endpoint(sealed, name=name), NOW_MS) == (secret,)
    assert secret not in sealed.sealed or len(secret) < 4
    assert sealed.key_id == ring.key_id
    assert sealed.expires_at_ms is None


def test_the_same_secret_never_seals_to_the_same_bytes() -> None:
    ring = KeyRing([KEY])
    assert len({ring.seal(b"secret", "ep_1").sealed for _ in range(100)}) == 100


def test_another_endpoint_cannot_use_it() -> None:
    ring = KeyRing([KEY])
    sealed = ring.seal(b"secret", "ep_1")
    with pytest.raises(UnreadableRecord, match="ep_2"):
        ring.open_secrets(endpoint(sealed, name="ep_2"), NOW_MS)


def test_no_flipped_bit_and_no_cut_opens() -> None:
    ring = KeyRing([KEY])
    sealed = ring.seal(b"secret", "ep_1").sealed
    damaged = [sealed[:cut] for cut in range(len(sealed))]
    damaged += [
        sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :] for place in range(len(sealed))
    ]
    for raw in damaged:
        with pytest.raises(UnreadableRecord):
            ring.open_secrets(endpoint(SealedSecret(ring.key_id, raw)), NOW_MS)


def test_newest_first_and_expired_ones_no_more() -> None:
    ring = KeyRing([KEY])
    old = SealedSecret(ring.key_id, ring.seal(b"old", "ep_1").sealed, expires_at_ms=NOW_MS + 10)
    rotated = endpoint(ring.seal(b"new", "ep_1"), old)
    assert ring.open_secrets(rotated, NOW_MS + 9) == (b"new", b"old")
    assert ring.open_secrets(rotated, NOW_MS + 10) == (b"new",)


def test_a_new_revision_is_opened_anew() -> None:
    ring = KeyRing([KEY])
    assert ring.open_secrets(endpoint(ring.seal(b"one", "ep_1")), NOW_MS) == (b"one",)
    assert ring.open_secrets(endpoint(ring.seal(b"two", "ep_1"), revision=2), NOW_MS) == (b"two",)


def test_the_cache_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_ring, "CACHED_ENDPOINTS_MAX", 3)
    ring = KeyRing([KEY])
    for number in range(10):
        name = f"ep_{number}"
        assert ring.open_secrets(endpoint(ring.seal(b"s", name), name=name), NOW_MS) == (b"s",)
    assert list(ring._opened) == [("ep_7", 1), ("ep_8", 1), ("ep_9", 1)]


def test_an_unknown_key_is_refused_by_name() -> None:
    ring, other = KeyRing([KEY]), KeyRing([OTHER])
    ring.check_known([])
    ring.check_known([ring.key_id])
    with pytest.raises(BadSettings, match=other.key_id):
        ring.check_known([ring.key_id, other.key_id])
    with pytest.raises(BadSettings, match=other.key_id):
        ring.open_secrets(endpoint(other.seal(b"s", "ep_1")), NOW_MS)


def test_an_older_key_still_opens_and_the_first_one_seals() -> None:
    sealed = KeyRing([OTHER]).seal(b"s", "ep_1")
    ring = KeyRing([KEY, OTHER])
    assert ring.open_secrets(endpoint(sealed), NOW_MS) == (b"s",)
    assert ring.key_id == KeyRing([KEY]).key_id != sealed.key_id


class TestTheFile:
    def test_an_empty_setting_makes_a_private_key_once(self, tmp_path: Path) -> None:
        file = tmp_path / "master.key"
        ring = KeyRing.open("", file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert KeyRing.open("", file).key_id == ring.key_id
        assert len(base64.b64decode(file.read_text())) == 32
        assert [path.name for path in tmp_path.iterdir()] == ["master.key"]

    def test_a_setting_makes_no_file_and_still_opens_what_the_file_sealed(self, tmp_path: Path) -> None:
        file = tmp_path / "master.key"
        setting = base64.b64encode(KEY).decode()
        KeyRing.open(setting, file)
        assert not file.exists()
        sealed = KeyRing.open("", file).seal(b"s", "ep_1")
        ring = KeyRing.open(setting, file)
        assert ring.key_id == KeyRing([KEY]).key_id
        assert ring.open_secrets(endpoint(sealed), NOW_MS) == (b"s",)

    @pytest.mark.parametrize("spelling", [base64.b64encode, base64.urlsafe_b64encode])
    def test_both_alphabets_with_and_without_padding_are_read(
        self, tmp_path: Path, spelling: Callable[[bytes], bytes]
    ) -> None:
        key = bytes([0xFB, 0xEF, 0xFF] * 10 + [1, 2])
        text = spelling(key).decode()
        for written in (text, text.rstrip("="), f" {text}\n"):
            assert KeyRing.open(written, tmp_path / "none").key_id == KeyRing([key]).key_id

    @pytest.mark.parametrize("bad", ["short", "é" * 44, "!" * 44, base64.b64encode(bytes(31)).decode()])
    def test_anything_else_is_a_bad_setting(self, tmp_path: Path, bad: str) -> None:
        with pytest.raises(BadSettings, match="openssl rand"):
            KeyRing.open(bad, tmp_path / "none")
        (tmp_path / "file").write_text(bad, encoding="utf-8")
        with pytest.raises(BadSettings):
            KeyRing.open("", tmp_path / "file")

    def test_a_directory_that_is_not_there_is_unavailable(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable):
            KeyRing.open("", tmp_path / "no" / "master.key")
        with pytest.raises(StoreUnavailable):
            KeyRing.open("", Path(os.devnull) / "master.key")
