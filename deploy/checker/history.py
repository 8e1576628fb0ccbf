"""A history: everything that was seen of one run, record by record.

Each source writes a file of its own (the publisher, the witness, the injector, the dumps), one record a line
(`lines.py`), and closes it with `End`. The order of the files does not matter, and neither does that of the
lines: records carry stamps or offsets. A source without its `End`, or with another number of records than
`End` says, was not written completely, and nothing is concluded from it: the verdict is `unknown`.

Times. `*_at_ns` is CLOCK_MONOTONIC of the one host that everything runs on, so that stamps of different
processes compare and no step of the wall clock reaches them. `*_at_ms` is milliseconds UTC by the clock of
the process that wrote it: the witness for an arrival, Hooktide itself (whose clock a scenario may step) for
attempts. `Run` holds one pair of both, taken at the same moment.
"""

from enum import StrEnum

from msgspec import Struct


class Source(StrEnum):
    """Who wrote a record."""

    PUBLISHER = "publisher"
    WITNESS = "witness"
    CONTROL = "control"
    INJECTOR = "injector"
    LOG = "log"
    DELIVERY_LOG = "delivery_log"
    STORE = "store"


class Result(StrEnum):
    """What the caller of the API knows afterwards."""

    OK = "ok"
    """Answered with success: it happened."""
    FAIL = "fail"
    """Answered with a refusal (4xx): it did not happen, and never will."""
    INFO = "info"
    """No answer, or one that is not sure (503, a reset): it may have happened, or may happen yet."""


class Action(StrEnum):
    """What a control call asked for."""

    CREATE = "create"
    DELETE = "delete"
    DISABLE = "disable"
    ENABLE = "enable"
    PAUSE = "pause"
    RESUME = "resume"
    ROTATE = "rotate"
    CANCEL = "cancel"
    RETRY_NOW = "retry_now"
    REPLAY = "replay"


class FaultKind(StrEnum):
    """What was done to the system."""

    KILL = "kill"
    """SIGKILL, at a random time or at a named point: what was in flight may be sent again."""
    POWER_CUT = "power_cut"
    """A kill that takes unsynced writes with it."""
    STOP = "stop"
    """SIGTERM: nothing that was answered is sent again."""
    PAUSE = "pause"
    """SIGSTOP until SIGCONT."""
    CLOCK_STEP = "clock_step"
    """The wall clock of Hooktide, not the witness's, moves to `clock_offset_ms`."""
    DAMAGE = "damage"
    LOST_DIRECTORY = "lost_directory"
    DISK_FULL = "disk_full"
    DESCRIPTORS = "descriptors"
    POISON = "poison"


class Run(Struct, frozen=True, tag="run", kw_only=True):
    """What the run was: exactly one per history.

    Attributes:
        repeat_command: what a person types to see it again.
        delays_ms: the retry schedule of every endpoint that has none of its own.
        window_ms: from fan-out; then a dead letter.
        slots: how many requests the process may have in flight: the most that one kill may repeat.
        endpoint_in_flight_max: the cap per endpoint.
        started_at_ns, started_at_ms: one moment on both clocks.
        is_drained: the run ended when nothing was pending any more: whatever is not accounted for is lost.
        declined: sources that this run does without. Rules that need them say "not checked".
        late_slack_ms: how much later than its schedule a retry may start, beyond what faults excuse (a
            backlog after a restart is not excused otherwise).
        control_slack_ms: a change reaches running shards within this time (DESIGN section 3: 5 s).
        witness_lag_ms: how long after a process's death the witness may still read what it sent.
        clock_tolerance_ms: between two processes that stamp the same moment.
        timeout_ms: the longest that one attempt may take.
        settle_slack_ms: how long an outcome may wait until it is written.
    """

    seed: int
    scenario: str
    repeat_command: str
    delays_ms: tuple[int, ...]
    window_ms: int
    slots: int
    endpoint_in_flight_max: int
    started_at_ns: int
    started_at_ms: int
    is_drained: bool
    jitter_share: float = 0.25
    declined: tuple[Source, ...] = ()
    late_slack_ms: int = 30_000
    control_slack_ms: int = 5_000
    witness_lag_ms: int = 500
    clock_tolerance_ms: int = 20
    timeout_ms: int = 15_000
    settle_slack_ms: int = 5_000


class Publish(Struct, frozen=True, gc=False, tag="publish"):
    """One call of the publish API. A repeat with the same key is a record of its own.

    Attributes:
        key: the idempotency key; empty for none.
        event_id: as answered; empty when there was no answer.
        data_sha256: of the data as sent, hexadecimal.
        matched_count: as answered; -1 when not known.
    """

    invoked_at_ns: int
    ended_at_ns: int
    result: Result
    tenant_id: str
    key: str
    event_type: str
    event_id: str
    data_sha256: str
    matched_count: int = -1


class EndpointKnown(Struct, frozen=True, tag="endpoint"):
    """An endpoint that was registered with a path at the witness.

    Attributes:
        path: of the witness; one endpoint each.
        patterns: the event types it subscribed to.
        created_at_ns: when the API answered its creation; events published later match it.
        delays_ms, window_ms: its own schedule; None for the run's.
        in_flight_max: its own cap; None for the run's.
    """

    endpoint_id: str
    tenant_id: str
    path: str
    patterns: tuple[str, ...]
    created_at_ns: int
    delays_ms: tuple[int, ...] | None = None
    window_ms: int | None = None
    in_flight_max: int | None = None


class Arrival(Struct, frozen=True, gc=False, tag="arrival"):
    """One request as the witness saw it: the truth about what was sent.

    Attributes:
        received_at_ns: when its last byte was read.
        answered_at_ns: taken *before* the answer is written, so that no consequence is older; None when it
            was left hanging or reset.
        webhook_timestamp_s: as signed; 0 when there was none.
        wall_at_ms: of `received_at_ns`, by the witness's clock.
        body_sha256: hexadecimal.
        verdict: of `operators.signing.Verdict`, as of the signed time (the checker judges the time itself,
            because a scenario may step Hooktide's clock); or `unchecked`.
        status: as answered.
        is_answer_written: the status line was handed to the kernel on a connection that was still open.
        connection: a number of the witness's own.
        retry_after_ms: as asked for in the answer; 0 for none.
    """

    received_at_ns: int
    answered_at_ns: int | None
    path: str
    webhook_id: str
    webhook_timestamp_s: int
    wall_at_ms: int
    body_sha256: str
    verdict: str
    status: int | None
    is_answer_written: bool
    connection: int = 0
    retry_after_ms: int = 0


class AttemptRecord(Struct, frozen=True, gc=False):
    """The attempt of a transition, as far as it can be checked.

    Attributes:
        error_code: of `schemas.outcome.ErrorCode`.
    """

    number: int
    started_at_ms: int
    finished_at_ms: int
    status: int | None
    error_code: str
    after_crash: bool
    requests_sent: int


class TransitionRecord(Struct, frozen=True, gc=False, tag="transition"):
    """A record of the topic `transitions`.

    Attributes:
        next_attempt_at_ms: 0 when there is none.
        at_ms: when it happened, by Hooktide's clock; 0 when not known.
    """

    partition: int
    offset: int
    delivery_id: str
    event_id: str
    endpoint_id: str
    epoch: int
    sequence: int
    state: str
    reason: str
    attempt_count: int
    schedule_step: int
    next_attempt_at_ms: int
    attempt: AttemptRecord | None = None
    at_ms: int = 0


class DeadLetterRecord(Struct, frozen=True, gc=False, tag="dead_letter"):
    """A record of the topic `dead_letters`.

    Attributes:
        name: the delivery id, or `<delivery id>@<partition>.<offset>` where the delivery itself is fine.
    """

    partition: int
    offset: int
    name: str
    delivery_id: str
    event_id: str
    endpoint_id: str
    reason: str
    attempt_count: int
    epoch: int
    sequence: int


class RejectedRecord(Struct, frozen=True, gc=False, tag="rejected"):
    """A record of the topic `rejected`; the position is that of the refused record."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str = ""


class DeliveryRecord(Struct, frozen=True, gc=False, tag="delivery"):
    """A record of the topic `deliveries`: one event on its way to one endpoint, as `route` fanned it out."""

    partition: int
    offset: int
    delivery_id: str
    event_id: str
    endpoint_id: str
    tenant_id: str
    body_sha256: str
    replay_id: str = ""


class LogRow(Struct, frozen=True, gc=False, tag="log_row"):
    """A row of the delivery log's table `attempts`."""

    partition: int
    epoch: int
    sequence: int
    delivery_id: str
    event_id: str
    endpoint_id: str
    number: int
    started_at_ms: int
    status: int | None
    after_crash: bool


class StoreRow(Struct, frozen=True, gc=False, tag="store_row"):
    """What a shard store says of a delivery when the run has ended.

    Attributes:
        has_row: a row of `pending` holds its body: it lives.
    """

    delivery_id: str
    endpoint_id: str
    state: str
    attempt_count: int
    next_attempt_at_ms: int
    has_row: bool


class Control(Struct, frozen=True, gc=False, tag="control"):
    """A control call; the ids that do not apply are empty."""

    invoked_at_ns: int
    ended_at_ns: int
    result: Result
    action: Action
    endpoint_id: str = ""
    delivery_id: str = ""
    replay_id: str = ""


class Fault(Struct, frozen=True, tag="fault", kw_only=True):
    """An injected fault.

    Attributes:
        began_at_ns: just before it was injected.
        ended_at_ns: when the injection was over: the process reaped, SIGCONT sent, the space returned.
        recovered_at_ns: when Hooktide was ready again (for a clock step: when its effect is over); None when
            it never was. Lateness is excused until then.
        in_flight: as the witness counted them when it began: received and not answered.
        repeats_max: how many deliveries it may repeat, as the victim knew its slots held; None for what the
            kind allows: `Run.slots` where the process may die of it, none for STOP, DAMAGE and
            LOST_DIRECTORY (lost after a kill, it has to say how much was not published yet).
        rejected_max: how many records it may bring to `rejected`.
        clock_offset_ms: of CLOCK_STEP: the wall clock of Hooktide minus the true one, from now on.
        point: the named code point, when there is one.
    """

    kind: FaultKind
    began_at_ns: int
    ended_at_ns: int
    recovered_at_ns: int | None = None
    in_flight: int = 0
    repeats_max: int | None = None
    rejected_max: int = 0
    clock_offset_ms: int = 0
    point: str = ""
    detail: str = ""


class End(Struct, frozen=True, tag="end"):
    """The last line of a source: it was written completely.

    Attributes:
        record_count: of the source's records before this one; for the injector without `Run`.
        at_ns: when it was written: the run's end as this source knows it.
    """

    source: Source
    record_count: int
    at_ns: int


Record = (
    Run
    | Publish
    | EndpointKnown
    | Arrival
    | TransitionRecord
    | DeadLetterRecord
    | RejectedRecord
    | DeliveryRecord
    | LogRow
    | StoreRow
    | Control
    | Fault
    | End
)

SOURCE_OF: dict[type, Source] = {
    Publish: Source.PUBLISHER,
    Arrival: Source.WITNESS,
    Control: Source.CONTROL,
    EndpointKnown: Source.CONTROL,
    Fault: Source.INJECTOR,
    TransitionRecord: Source.LOG,
    DeadLetterRecord: Source.LOG,
    RejectedRecord: Source.LOG,
    DeliveryRecord: Source.LOG,
    LogRow: Source.DELIVERY_LOG,
    StoreRow: Source.STORE,
}
"""Which source writes which record; `Run` is the caller's."""
