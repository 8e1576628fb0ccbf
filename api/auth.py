"""Who asks: a bearer key, compared in constant time.

There is one key so far, the operator's (`admin`). Keys of tenants will imply their `tenant_id`; so handlers
never look at keys, they ask the principal which tenant a request is for.

Source: RFC 6750 section 2.1 and 3; RFC 9110 section 11.6.1.
"""

from hashlib import sha256
from hmac import compare_digest
from typing import Final

from msgspec import Struct

from api.problems import ProblemError, invalid_field, not_found
from schemas.problem_codes import ProblemCode

_SCHEME: Final = "bearer "
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="hooktide"'}


class Principal(Struct, frozen=True):
    """Whoever holds the key.

    Attributes:
        tenant_id: the tenant of a tenant's key; None for the admin key, which speaks for any.
    """

    tenant_id: str | None

    def tenant_of_write(self, named: str | None) -> str:
        """Returns the tenant that a body is for.

        Raises:
            ProblemError: the admin key without a tenant (422), or a tenant's key with another tenant (403).
        """
        if self.tenant_id is None:
            if named is None:
                raise invalid_field("/tenant_id", "required", "is required with the admin key.")
            return named
        if named is not None and named != self.tenant_id:
            raise ProblemError(
                ProblemCode.FORBIDDEN, "This key belongs to another tenant; leave tenant_id out."
            )
        return self.tenant_id

    def may_see(self, tenant_id: str) -> bool:
        """Whether a thing of that tenant exists for this principal; if not, it is a 404."""
        return self.tenant_id is None or self.tenant_id == tenant_id

    def tenant_of_read(self, named: str | None, what: str) -> str | None:
        """Returns the tenant that a read is limited to, None for all.

        Raises:
            ProblemError: a tenant's key asks for another tenant (404, as for any foreign id).
        """
        if named is not None and not self.may_see(named):
            raise not_found(what)
        return named if self.tenant_id is None else self.tenant_id

    def tenant_of_list(self, named: str | None) -> str | None:
        """Returns the tenant that a list is limited to, None for all.

        Raises:
            ProblemError: a tenant's key asks for another tenant's (403: a list names no thing to be missing).
        """
        if named is not None and not self.may_see(named):
            raise ProblemError(
                ProblemCode.FORBIDDEN, "This key belongs to another tenant; leave tenant_id out."
            )
        return named if self.tenant_id is None else self.tenant_id


ADMIN: Final = Principal(tenant_id=None)


class Authenticator:
    """Knows the keys. Holds digests only; comparing those hides a key's length as well."""

    def __init__(self, admin_key: str) -> None:
        if not admin_key:
            raise ValueError("an empty admin key would let everybody in")
        self._admin_digest = sha256(admin_key.encode()).digest()

    def authenticate(self, header: str | None) -> Principal:
        """Returns who presents this `Authorization` header.

        Raises:
            ProblemError: no header, another scheme, or an unknown key (all 401, told apart by the sentence).
        """
        if header is None:
            raise _unauthenticated("Send the key as `Authorization: Bearer <key>`.")
        if header[: len(_SCHEME)].lower() != _SCHEME:
            raise _unauthenticated("Only the scheme Bearer is known: `Authorization: Bearer <key>`.")
        # aiohttp decodes headers with surrogateescape; such a key is merely wrong.
        key = header[len(_SCHEME) :].strip().encode("utf-8", "surrogateescape")
        if not compare_digest(sha256(key).digest(), self._admin_digest):
            raise _unauthenticated("The key is not known here; `./hooktide key show` prints it.")
        return ADMIN


def _unauthenticated(detail: str) -> ProblemError:
    return ProblemError(ProblemCode.UNAUTHENTICATED, detail, headers=_CHALLENGE)
