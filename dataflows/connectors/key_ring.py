"""The key ring: seals endpoint secrets for the log, and opens them again for signing.

AES-256-GCM with the endpoint's id as associated data: a sealed secret that is copied into another endpoint's
record does not open there. Every sealed secret names its key, so a ring can open what an older key sealed:
with a master key in the settings, the key that the embedded mode made for itself before still opens its own.

Opened secrets are cached by (endpoint, revision), because signing needs them for every delivery and opening
costs microseconds; every management write raises the revision, so the cache is never stale. It is bounded,
and plain secrets exist nowhere else.

Rejected: deriving a key per endpoint (nothing gained over associated data); Fernet (no associated data, and a
timestamp we do not want).
"""

import base64
import os
import threading
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dataflows.connectors.data_directory import create_private_file
from schemas.endpoint import Endpoint, SealedSecret
from schemas.errors import BadSettings, StoreUnavailable, UnreadableRecord

_KEY_BYTES = 32
_NONCE_BYTES = 12
CACHED_ENDPOINTS_MAX = 100_000
"""About 40 MB of opened secrets at most."""


class KeyRing:
    """Seals with the first key, opens with every key. Any thread may call it.

    Args:
        keys: 32 bytes each; the first one seals.
    """

    def __init__(self, keys: Iterable[bytes]) -> None:
        ordered = list(keys)
        self._ciphers = {_key_id(key): AESGCM(key) for key in ordered}
        self.key_id = _key_id(ordered[0])
        self._opened: dict[tuple[str, int], tuple[tuple[bytes, int | None], ...]] = {}
        self._evicting = threading.Lock()

    @classmethod
    def open(cls, master_key_b64: str, file: Path) -> Self:
        """Returns the ring of the settings' key and the key file.

        Args:
            master_key_b64: base64 (either alphabet) of 32 bytes; empty: the file's key seals, and is made
                (0600) when it is not there.
            file: where the embedded mode keeps its own key.

        Raises:
            BadSettings: the setting or the file is not base64 of 32 bytes.
            StoreUnavailable: the file cannot be read or made.
        """
        keys = [_decoded(master_key_b64, "the setting master_key")] if master_key_b64.strip() else []
        try:
            keys.append(_decoded(file.read_text(encoding="ascii"), f"the key file {file}"))
        except FileNotFoundError:
            if not keys:
                keys.append(os.urandom(_KEY_BYTES))
                create_private_file(file, base64.b64encode(keys[0]) + b"\n")
        except UnicodeDecodeError as error:
            raise BadSettings(
                f"the key file {file} is not base64 of {_KEY_BYTES} bytes; restore it"
            ) from error
        except OSError as error:
            raise StoreUnavailable(
                f"the key file {file} cannot be read: {error.strerror or error}"
            ) from error
        return cls(keys)

    def seal(self, secret: bytes, endpoint_id: str) -> SealedSecret:
        """Returns the secret encrypted for this endpoint's record, without an expiry."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self.key_id].encrypt(nonce, secret, endpoint_id.encode())
        return SealedSecret(self.key_id, nonce + sealed)

    def open_secrets(self, endpoint: Endpoint, now_ms: int) -> tuple[bytes, ...]:
        """Returns the endpoint's unexpired secrets, newest first; every one of them signs.

        Raises:
            BadSettings: sealed with a key that is not in the ring.
            UnreadableRecord: damaged, or sealed for another endpoint.
        """
        name = (endpoint.id, endpoint.revision)
        opened = self._opened.get(name)
        if opened is None:
            opened = tuple(
                [(self._open_one(secret, endpoint.id), secret.expires_at_ms) for secret in endpoint.secrets]
            )
            self._keep(name, opened)
        return tuple(
            [secret for secret, expires_at_ms in opened if expires_at_ms is None or expires_at_ms > now_ms]
        )

    def check_known(self, key_ids: Iterable[str]) -> None:
        """Refuses to start with secrets that this ring cannot open: their endpoints could not be signed for.

        Raises:
            BadSettings: names the unknown key ids.
        """
        unknown = sorted(set(key_ids) - self._ciphers.keys())
        if unknown:
            raise BadSettings(
                f"endpoint secrets are sealed with the unknown master key {', '.join(unknown)} (known: "
                f"{', '.join(sorted(self._ciphers))}): set master_key to the key they were sealed with, the "
                f"same in "
                "every process"
            )

    def _open_one(self, secret: SealedSecret, endpoint_id: str) -> bytes:
        self.check_known([secret.key_id])
        cipher = self._ciphers[secret.key_id]
        nonce, sealed = secret.sealed[:_NONCE_BYTES], secret.sealed[_NONCE_BYTES:]
        try:
            return cipher.decrypt(nonce, sealed, endpoint_id.encode())
        except (InvalidTag, ValueError) as error:
            raise UnreadableRecord(
                f"a secret of endpoint {endpoint_id} does not open: it is damaged, or was sealed for another "
                f"endpoint; "
                "rotate it"
            ) from error

    def _keep(self, name: tuple[str, int], opened: tuple[tuple[bytes, int | None], ...]) -> None:
        with self._evicting:
            while len(self._opened) >= CACHED_ENDPOINTS_MAX:
                del self._opened[
                    next(iter(self._opened))
                ]  # the oldest; reading does not reorder, so it stays free
            self._opened[name] = opened


def _key_id(key: bytes) -> str:
    return blake2b(key, digest_size=6, person=b"hooktide-key-id").hexdigest()


def _decoded(text: str, whose: str) -> bytes:
    urlsafe = text.strip().replace("-", "+").replace("_", "/")
    try:
        key = base64.b64decode(urlsafe + "=" * (-len(urlsafe) % 4), validate=True)
    except ValueError as error:
        raise BadSettings(
            f"{whose} is not base64 of {_KEY_BYTES} bytes; `openssl rand -base64 32` makes one"
        ) from error
    if len(key) != _KEY_BYTES:
        raise BadSettings(
            f"{whose} has {len(key)} bytes, it needs {_KEY_BYTES}; `openssl rand -base64 32` makes one"
        )
    return key
