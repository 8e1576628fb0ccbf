"""How often verifications are sent: per tenant, and per target host whoever asks.

Each one is a request to somebody who has not agreed to anything yet. Without the first limit a key would be a
scanner, without the second many tenants together would be somebody's load test.

A moving window of a minute, in memory, for each process: a restart forgives, and takes about as long.

Rejected: the library `limits`. Its memory storage keeps a list for every name it was ever asked about (hosts
are chosen by strangers), starts a thread per hit, and reads the wall clock, which jumps.
"""

from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from api.problems import ProblemError
from schemas.endpoint import MINUTE_MS, Endpoint
from schemas.problem_codes import ProblemCode
from schemas.settings import ApiSettings

_SWEPT_ABOVE: Final = 1_024
"""Names that are held before those without a verification in the last minute are looked for."""


class VerificationLimits:
    """Belongs to one event loop.

    Args:
        clock_ms: milliseconds UTC.
    """

    def __init__(self, settings: ApiSettings, clock_ms: Callable[[], int]) -> None:
        self._max_of = {
            "tenant": settings.verifications_per_minute_tenant,
            "host": settings.verifications_per_minute_host,
        }
        self._clock_ms = clock_ms
        self._sent: dict[tuple[str, str], list[int]] = {}
        self._sweep_above = _SWEPT_ABOVE

    def hit(self, endpoint: Endpoint) -> None:
        """Counts one verification; one that is refused does not count.

        Raises:
            ProblemError: `rate_limited`, with `Retry-After`.
        """
        now_ms = self._clock_ms()
        names = (("tenant", endpoint.tenant_id), ("host", urlsplit(endpoint.url).hostname or ""))
        for name in names:
            sent = self._sent[name] = self._recent(name, now_ms)
            count_max = self._max_of[name[0]]
            if len(sent) >= count_max:
                wait_s = max(1, -(-(sent[-count_max] + MINUTE_MS - now_ms) // 1_000))
                raise ProblemError(
                    ProblemCode.RATE_LIMITED,
                    f"At most {count_max} verifications a minute for one {name[0]}; try again in {wait_s} s.",
                    headers={"Retry-After": str(wait_s)},
                )
        for name in names:
            self._sent[name].append(now_ms)
        if len(self._sent) > self._sweep_above:
            self._sweep(now_ms)

    def _recent(self, name: tuple[str, str], now_ms: int) -> list[int]:
        """Returns when those of the last minute were sent, oldest first."""
        # A time in the future is one of before the clock was set back; it locks nobody out.
        return [at_ms for at_ms in self._sent.get(name, ()) if 0 <= now_ms - at_ms < MINUTE_MS]

    def _sweep(self, now_ms: int) -> None:
        self._sent = {name: sent for name, sent in self._sent.items() if self._recent(name, now_ms)}
        self._sweep_above = max(_SWEPT_ABOVE, 2 * len(self._sent))
