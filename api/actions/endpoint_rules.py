"""The rules for an endpoint's fields beyond their shape: all are asked, and every broken one is named.

The rules themselves stand in `operators`, because the sender, `route` and the command line hold them too.
"""

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from api.bodies import invalid, pointer
from operators.body_format import API_VERSIONS
from operators.event_rules import is_tenant_id
from operators.matching import pattern_faults
from operators.request_head import check_own_headers
from operators.signing import SECRET_BYTES, decode_secret
from operators.target_url import UrlRefusal, check_target_url
from schemas.endpoint import ClientErrorPolicy, Endpoint, RedirectPolicy
from schemas.errors import BadInput
from schemas.problem_codes import ProblemCode
from schemas.rest.endpoint import MASK, EndpointFields
from schemas.rest.problem import FieldError
from schemas.settings import EgressSettings


class EndpointRules(Struct, frozen=True):
    """Judges fields by the settings of this process.

    Attributes:
        egress: which URLs are allowed, and the default timeout.
        entropy: that many random bytes, fit for secrets.
    """

    egress: EgressSettings
    entropy: Callable[[int], bytes]

    def check(self, fields: EndpointFields, *more: FieldError) -> str:
        """Returns the normal form of the URL.

        Args:
            more: what is wrong with fields that only the caller knows.

        Raises:
            ProblemError: `invalid_fields`, or `url_not_allowed` when the URL is all that is wrong.
        """
        errors = [*more, *_errors_of(fields)]
        url = check_target_url(fields.url, allow_private=self.egress.allow_private_networks)
        if isinstance(url, UrlRefusal):
            errors.append(FieldError("/url", url.code, url.detail.removesuffix(".")))
        if errors or isinstance(url, UrlRefusal):
            is_url_only = len(errors) == 1 and isinstance(url, UrlRefusal)
            raise invalid(errors, ProblemCode.URL_NOT_ALLOWED if is_url_only else ProblemCode.INVALID_FIELDS)
        return url.url

    def secret_of(self, given: str | None) -> bytes:
        """Returns the secret that was brought, or draws one.

        Raises:
            BadInput: it is none; the message says what one looks like.
        """
        return self.entropy(SECRET_BYTES) if given is None else decode_secret(given)

    def apply(self, endpoint: Endpoint, fields: EndpointFields, url: str) -> Endpoint:
        """Returns the endpoint with these fields; what is absent gets its default."""
        return replace(
            endpoint,
            url=url,
            event_types=tuple(fields.event_types),
            api_version=fields.api_version or API_VERSIONS[-1],
            description=fields.description or "",
            headers=fields.headers or {},
            retry=None if fields.retry is None else fields.retry.to_policy(),
            timeout_ms=fields.timeout_ms or self.egress.timeout_ms,
            redirects=fields.redirects or RedirectPolicy.FOLLOW_ONCE,
            client_errors=fields.client_errors or ClientErrorPolicy.DEAD_LETTER,
        )


def secret_errors(rules: EndpointRules, given: str | None) -> list[FieldError]:
    """Returns what is wrong with a secret that was brought."""
    try:
        if given is not None:
            rules.secret_of(given)
    except BadInput as error:
        return [FieldError("/secret", "invalid", str(error))]
    return []


def tenant_errors(tenant_id: str) -> list[FieldError]:
    """Returns what is wrong with a tenant's id."""
    if is_tenant_id(tenant_id):
        return []
    return [FieldError("/tenant_id", "invalid", "must be 1-64 letters, digits or any of _ . : -")]


def _errors_of(fields: EndpointFields) -> list[FieldError]:
    """Returns what is wrong with everything but the URL."""
    errors: list[FieldError] = []
    for fault in pattern_faults(fields.event_types):
        at = pointer("event_types") if fault.place is None else pointer("event_types", fault.place)
        errors.append(FieldError(at, "invalid", fault.detail))
    headers = fields.headers or {}
    for problem in check_own_headers(headers):
        at = pointer("headers", problem.name) if problem.name else pointer("headers")
        errors.append(FieldError(at, "not_allowed", problem.detail.removesuffix(".")))
    # Whoever sends back what a read showed would replace a credential by asterisks.
    detail = "is the mask that reads show; send the value itself, or leave the header out"
    errors += [
        FieldError(pointer("headers", name), "masked", detail)
        for name, value in headers.items()
        if value == MASK
    ]
    if fields.api_version is not None and fields.api_version not in API_VERSIONS:
        errors.append(FieldError("/api_version", "not_allowed", f"is one of {', '.join(API_VERSIONS)}"))
    return errors
