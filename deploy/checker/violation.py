"""A violation: one way in which a history breaks the contract, with the few records that show it."""

from enum import StrEnum

from msgspec import Struct

from deploy.checker.history import Record


class ViolationClass(StrEnum):
    """What is broken; the names are part of the report's format.

    Breaker, ramp and fairness (`illegal-edge`, `sent-while-open`, `ramp-overrun`, `starved`, `over-rate`)
    join with their machines: a name here, a rule in `rules/table.py`.
    """

    LOST = "lost"
    DUPLICATE_AFTER_SUCCESS = "duplicate-after-success"
    TOO_MANY_REPEATS = "too-many-repeats"
    GHOST = "ghost"
    EARLY_RETRY = "early-retry"
    LATE_RETRY = "late-retry"
    ATTEMPT_GAP = "attempt-gap"
    LOG_MISSING = "log-missing"
    LOG_PHANTOM = "log-phantom"
    LOG_DUPLICATE = "log-duplicate"
    BAD_SIGNATURE = "bad-signature"
    ID_MISMATCH = "id-mismatch"
    CROSS_TENANT = "cross-tenant"
    AFTER_DISABLE = "after-disable"
    AFTER_DELETE = "after-delete"
    SENT_WHILE_PAUSED = "sent-while-paused"
    OVER_CONCURRENCY = "over-concurrency"
    STATE_AFTER_FINAL = "state-after-final"
    TWO_OWNERS = "two-owners"
    UNEXPECTED_REJECTED = "unexpected-rejected"


class Violation(Struct, frozen=True):
    """One violation.

    Attributes:
        subject: whose: `<event id> -> <endpoint id>`, a partition, an outage.
        detail: a sentence: what was expected, and what was seen.
        slice: the records that show it, few.
    """

    kind: ViolationClass
    subject: str
    detail: str
    slice: tuple[Record, ...]
