"""All rules: what each reports, and which sources it needs. A new family adds its lines here."""

from collections.abc import Callable, Iterator

from msgspec import Struct

from deploy.checker.history import Run, Source
from deploy.checker.index import Index
from deploy.checker.rules import (
    accounting,
    control,
    delivery_log,
    identity,
    limits,
    ownership,
    repeats,
    schedule,
)
from deploy.checker.violation import Violation, ViolationClass


class Rule(Struct, frozen=True):
    """One rule.

    Attributes:
        needs: the sources without which its word is worth nothing.
    """

    kind: ViolationClass
    find: Callable[[Index], Iterator[Violation]]
    needs: frozenset[Source]


_WHO = frozenset({Source.INJECTOR, Source.CONTROL})
_SENT = _WHO | {Source.WITNESS}
_RECORDED = _SENT | {Source.LOG}

RULES = (
    Rule(ViolationClass.LOST, accounting.lost, _RECORDED | {Source.PUBLISHER}),
    Rule(ViolationClass.GHOST, accounting.ghost, _SENT | {Source.PUBLISHER}),
    Rule(ViolationClass.DUPLICATE_AFTER_SUCCESS, repeats.duplicate_after_success, _RECORDED),
    Rule(ViolationClass.TOO_MANY_REPEATS, repeats.too_many_repeats, _RECORDED),
    Rule(ViolationClass.EARLY_RETRY, schedule.early_retry, _RECORDED | {Source.PUBLISHER}),
    Rule(ViolationClass.LATE_RETRY, schedule.late_retry, _RECORDED | {Source.PUBLISHER}),
    Rule(ViolationClass.ATTEMPT_GAP, schedule.attempt_gap, frozenset({Source.LOG})),
    Rule(ViolationClass.LOG_MISSING, delivery_log.log_missing, frozenset({Source.LOG, Source.DELIVERY_LOG})),
    Rule(ViolationClass.LOG_MISSING, delivery_log.unrecorded_arrivals, _RECORDED),
    Rule(ViolationClass.LOG_PHANTOM, delivery_log.log_phantom, frozenset({Source.LOG, Source.DELIVERY_LOG})),
    Rule(ViolationClass.LOG_PHANTOM, delivery_log.unseen_attempts, _RECORDED),
    Rule(ViolationClass.LOG_DUPLICATE, delivery_log.log_duplicate, frozenset({Source.DELIVERY_LOG})),
    Rule(ViolationClass.BAD_SIGNATURE, identity.bad_signature, frozenset({Source.WITNESS, Source.INJECTOR})),
    Rule(ViolationClass.ID_MISMATCH, identity.id_mismatch, _SENT | {Source.PUBLISHER}),
    Rule(ViolationClass.CROSS_TENANT, identity.cross_tenant, _SENT | {Source.PUBLISHER}),
    Rule(ViolationClass.AFTER_DISABLE, control.after_disable, _SENT),
    Rule(ViolationClass.AFTER_DELETE, control.after_delete, _SENT),
    Rule(ViolationClass.SENT_WHILE_PAUSED, control.sent_while_paused, _SENT),
    Rule(ViolationClass.OVER_CONCURRENCY, limits.over_concurrency, _RECORDED),
    Rule(ViolationClass.STATE_AFTER_FINAL, ownership.state_after_final, frozenset({Source.LOG})),
    Rule(ViolationClass.STATE_AFTER_FINAL, ownership.sent_after_final, _RECORDED),
    Rule(ViolationClass.TWO_OWNERS, ownership.two_owners, frozenset({Source.LOG})),
    Rule(
        ViolationClass.UNEXPECTED_REJECTED,
        ownership.unexpected_rejected,
        frozenset({Source.LOG, Source.INJECTOR}),
    ),
)


def needs(rule: Rule, run: Run) -> frozenset[Source]:
    """Returns the sources that a rule needs in this run.

    What is pending is accounted for by the stores: always in a run that did not drain; in one that did, only
    what waits for a shut endpoint is pending, and a run may declare to take that on trust.
    """
    if rule.kind is ViolationClass.LOST and not (run.is_drained and Source.STORE in run.declined):
        return rule.needs | {Source.STORE}
    return rule.needs
