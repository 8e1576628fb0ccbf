"""An attempt: one recorded try of a delivery, as it stands in a transition and in the delivery log."""

from msgspec import Struct

from schemas.outcome import ErrorCode, Hop


class Attempt(Struct, frozen=True, array_like=True, gc=False):
    """One recorded try.

    Attributes:
        number: from 1; with the delivery's id it makes the attempt's id.
        after_crash: an earlier process may have sent this same number before it died.
        queued_us: from the moment it could have been sent to the moment it was.
    """

    number: int
    started_at_ms: int
    finished_at_ms: int
    url: str
    status: int | None
    error_code: ErrorCode
    error_detail: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_body_truncated: bool
    queued_us: int
    connect_us: int
    first_byte_us: int
    total_us: int
    peer: str
    is_reused_connection: bool
    requests_sent: int
    after_crash: bool
    hops: tuple[Hop, ...] = ()
