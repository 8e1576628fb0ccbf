"""What every request body has in common: closed to unknown fields, and no conversions.

Numbers are not read from text and text not from numbers: a client that sends `"15000"` has a bug that it
wants to hear of. `null` means the default everywhere, as RFC 7396 will need for changes. Grammars that
`route` holds as well (tenants, types, patterns) stand in `operators`, once, and are asked by `api.actions`.
"""

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """A request's body; frozen, strict, closed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)
