"""An endpoint's life: when nothing may be sent to it, by the control calls that were answered.

A call holds from its answer plus the time a change may take to reach the shards; it ends when the opposite is
asked for, answered or not. A call without a sure answer forbids nothing, but explains what it may have done.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct, field

from deploy.checker.history import Action, Control, EndpointKnown, Result
from deploy.checker.outages import FOR_EVER_NS, Excuse


class Shut(StrEnum):
    """Why nothing may be sent."""

    PAUSED = "paused"
    DISABLED = "disabled"
    DELETED = "deleted"


class Interval(Struct, frozen=True):
    """A time in which nothing may be sent.

    Attributes:
        since_ns: when the call was answered; the slack for its way to the shards is not added yet.
        until_ns: when its opposite was asked for.
        control: the call; None for an endpoint that answered 410.
    """

    why: Shut
    since_ns: int
    until_ns: int
    control: Control | None


_SHUTS = {Action.PAUSE: Shut.PAUSED, Action.DISABLE: Shut.DISABLED, Action.DELETE: Shut.DELETED}
_OPENS = {Action.RESUME: Shut.PAUSED, Action.ENABLE: Shut.DISABLED}


class EndpointLife(Struct):
    """One endpoint with its control calls.

    Attributes:
        delete_asked_at_ns: the first deletion that may have happened; None without one.
        shut: in order of time.
        held: where it may have been paused or disabled: excuses lateness.
        may_be_shut_at_end: what waits for it then may go on waiting.
    """

    known: EndpointKnown
    controls: list[Control] = field(default_factory=list)
    delete_asked_at_ns: int | None = None
    shut: list[Interval] = field(default_factory=list)
    held: Excuse = field(default_factory=Excuse)
    may_be_shut_at_end: bool = False


def read_life(
    known: EndpointKnown,
    controls: Sequence[Control],
    gone_at_ns: Iterable[int] = (),
    pauses: Iterable[tuple[int, int]] = (),
    slack_ns: int = 0,
) -> EndpointLife:
    """Returns an endpoint's life.

    Args:
        controls: of this endpoint, in order of time.
        gone_at_ns: when it answered 410, which disables it.
        slack_ns: how long a call may take to reach the shards.
        pauses: intervals in which Retry-After asked for silence; they excuse lateness, and forbid nothing.
    """
    life = EndpointLife(known, list(controls))
    held = list(pauses)
    for control in controls:
        if control.action not in _SHUTS or control.result is Result.FAIL:
            continue
        if control.action is Action.DELETE and life.delete_asked_at_ns is None:
            life.delete_asked_at_ns = control.invoked_at_ns
        why = _SHUTS[control.action]
        until_ns = _opened_ns(controls, why, control.invoked_at_ns)
        held.append((control.invoked_at_ns, _opened_surely_ns(controls, why, control.ended_at_ns)))
        if control.result is Result.OK:
            life.shut.append(Interval(why, control.ended_at_ns, until_ns, control))
    for at_ns in gone_at_ns:
        # An enable that is still on its way meets the 410, and wins: it raises the generation.
        until_ns = _opened_ns(controls, Shut.DISABLED, at_ns - slack_ns)
        held.append((at_ns, _opened_surely_ns(controls, Shut.DISABLED, at_ns)))
        if not any(i.why is Shut.DISABLED and i.since_ns <= at_ns < i.until_ns for i in life.shut):
            life.shut.append(Interval(Shut.DISABLED, at_ns, until_ns, None))
    life.shut.sort(key=lambda interval: interval.since_ns)
    life.held = Excuse(held)
    life.may_be_shut_at_end = any(until_ns == FOR_EVER_NS for _, until_ns in held)
    return life


def _opened_ns(controls: Sequence[Control], why: Shut, since_ns: int) -> int:
    """Returns when the opposite was first asked for, with any result but a refusal."""
    return next(
        (
            c.invoked_at_ns
            for c in controls
            if _OPENS.get(c.action) is why and c.ended_at_ns > since_ns and c.result is not Result.FAIL
        ),
        FOR_EVER_NS,
    )


def _opened_surely_ns(controls: Sequence[Control], why: Shut, since_ns: int) -> int:
    """Returns when the opposite was first answered with success."""
    return next(
        (
            c.ended_at_ns
            for c in controls
            if _OPENS.get(c.action) is why and c.invoked_at_ns >= since_ns and c.result is Result.OK
        ),
        FOR_EVER_NS,
    )
