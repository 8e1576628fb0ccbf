"""Planted mutations of what is written down: numbers, rows, signatures, bodies, tenants, states, stamps."""

from itertools import pairwise

from msgspec.structs import replace

from deploy.checker import history as h
from deploy.checker.violation import ViolationClass
from operators.signing import Verdict
from tests.checker.model_clockwork import MS
from tests.checker.planting import Mutation, Parts, does_not_apply

_BAD_VERDICTS = [str(verdict) for verdict in Verdict if verdict is not Verdict.OK] + ["unchecked"]


def _attempts(parts: Parts) -> list[h.TransitionRecord]:
    return [t for t in parts.of[h.TransitionRecord] if t.attempt is not None]


# --- attempt-gap


def _skip_a_number(parts: Parts) -> None:
    transition = parts.choose(_attempts(parts))
    parts.put_attempt(transition, number=transition.attempt.number + parts.rng.randint(1, 3))


def _repeat_a_number(parts: Parts) -> None:
    transition = parts.choose(t for t in _attempts(parts) if t.attempt is not None and t.attempt.number > 1)
    parts.put_attempt(transition, number=transition.attempt.number - 1)


def _miscount(parts: Parts) -> None:
    transition = parts.choose(parts.of[h.TransitionRecord])
    parts.put(transition, attempt_count=transition.attempt_count + parts.rng.choice((1, 2)))


def _lose_an_attempt_in_the_middle(parts: Parts) -> None:
    delivery = parts.choose(parts.ended(attempts=2, arrivals=0))
    parts.drop_transition(parts.transitions[delivery.delivery_id][0])


def _fall_back_in_the_schedule(parts: Parts) -> None:
    delivery = parts.choose(parts.ended(attempts=2, arrivals=0))
    parts.put(parts.transitions[delivery.delivery_id][-1], schedule_step=0)


# --- log-missing, log-phantom, log-duplicate


def _drop_a_row(parts: Parts) -> None:
    parts.drop(parts.choose(parts.of[h.LogRow]))


def _drop_all_rows_of_a_delivery(parts: Parts) -> None:
    chosen = parts.choose(parts.of[h.LogRow])
    parts.drop(*(row for row in parts.of[h.LogRow] if row.delivery_id == chosen.delivery_id))


def _send_and_never_record(parts: Parts) -> None:
    parts.needs_no_fault()
    delivery = parts.choose(parts.ended())
    first = parts.seen(delivery)[0]
    parts.repeat(first, first.received_at_ns - parts.rng.randrange(30, 3_000) * MS)


def _forget_a_failure(parts: Parts) -> None:
    parts.needs_no_fault()
    delivery = parts.choose(parts.ended(attempts=2, arrivals=2))
    first = parts.transitions[delivery.delivery_id][0]
    if first.attempt is None or first.attempt.status is None:
        does_not_apply()
    parts.drop_transition(first)


def _forget_it_long_before_a_kill(parts: Parts) -> None:
    kill = parts.choose(f for f in parts.of[h.Fault] if f.kind == "kill")
    if len(parts.of[h.Fault]) > 1:
        does_not_apply()
    delivery = parts.choose(
        d
        for d in parts.ended()
        if kill.began_at_ns + 3_000 * MS < parts.seen(d)[0].received_at_ns
        and kill.began_at_ns > parts.run.started_at_ns + 100 * MS
    )
    first = parts.seen(delivery)[0]
    parts.repeat(first, kill.began_at_ns - parts.rng.randrange(6_300, 9_000) * MS)


def _invent_a_row(parts: Parts) -> None:
    row = parts.choose(parts.of[h.LogRow])
    number = row.number + parts.rng.randint(1, 5)
    parts.of[h.LogRow].append(replace(row, sequence=row.sequence + 10_000, number=number))


def _lie_in_a_row(parts: Parts) -> None:
    row = parts.choose(parts.of[h.LogRow])
    lie = parts.rng.choice(("status", "number", "after_crash", "started_at_ms"))
    lies = {
        "status": 418,
        "number": row.number + 1,
        "after_crash": not row.after_crash,
        "started_at_ms": row.started_at_ms + 1,
    }
    parts.put(row, **{lie: lies[lie]})


def _hide_the_request(parts: Parts) -> None:
    parts.needs_no_fault()
    delivery = parts.choose(parts.ended())
    seen = parts.seen(delivery)
    attempts = [t.attempt for t in parts.transitions[delivery.delivery_id]]
    if any(a is None or a.status is None or a.requests_sent != 1 for a in attempts):
        does_not_apply()
    parts.drop(parts.choose(seen))


def _come_to_a_status_nobody_gave(parts: Parts) -> None:
    transition = parts.choose(
        t for t in _attempts(parts) if t.attempt is not None and t.attempt.error_code == "refused"
    )
    parts.put_attempt(transition, status=parts.rng.choice((200, 404, 503)), requests_sent=1)


def _insert_a_row_twice(parts: Parts) -> None:
    parts.of[h.LogRow].append(parts.choose(parts.of[h.LogRow]))


def _insert_an_attempt_under_two_stamps(parts: Parts) -> None:
    row = parts.choose(parts.of[h.LogRow])
    parts.of[h.LogRow].append(replace(row, epoch=row.epoch + 1, sequence=row.sequence + 500))


# --- bad-signature, id-mismatch, cross-tenant


def _spoil_a_signature(parts: Parts) -> None:
    parts.put(parts.choose(parts.of[h.Arrival]), verdict=parts.rng.choice(_BAD_VERDICTS))


def _sign_another_time(parts: Parts) -> None:
    if any(fault.kind == "clock_step" for fault in parts.of[h.Fault]):
        does_not_apply()
    arrival = parts.choose(parts.of[h.Arrival])
    by_s = parts.rng.choice((-600, -180, 180, 600, -arrival.webhook_timestamp_s))
    parts.put(arrival, webhook_timestamp_s=arrival.webhook_timestamp_s + by_s)


def _send_other_bytes(parts: Parts) -> None:
    delivery = parts.choose(parts.ended())
    parts.put(parts.choose(parts.seen(delivery)), body_sha256="0" * 64)


def _freeze_other_bytes(parts: Parts) -> None:
    delivery = parts.choose(parts.ended())
    parts.put(delivery, body_sha256="f" * 64)


def _answer_a_key_with_two_ids(parts: Parts) -> None:
    publish = parts.choose(p for p in parts.of[h.Publish] if p.key and p.result is h.Result.OK)
    later = publish.ended_at_ns + MS
    parts.of[h.Publish].append(replace(publish, invoked_at_ns=later, event_id="evt_another"))


def _accept_other_data_under_the_key(parts: Parts) -> None:
    publish = parts.choose(p for p in parts.of[h.Publish] if p.key and p.result is h.Result.OK)
    later = publish.ended_at_ns + MS
    parts.of[h.Publish].append(replace(publish, invoked_at_ns=later, data_sha256="1" * 64))


def _name_two_deliveries_alike(parts: Parts) -> None:
    delivery = parts.choose(parts.of[h.DeliveryRecord])
    parts.of[h.DeliveryRecord].append(
        replace(delivery, offset=delivery.offset + 1_000, event_id="evt_another")
    )


def _move_the_endpoint(parts: Parts) -> None:
    delivery = parts.choose(parts.ended())
    parts.put(parts.endpoints[delivery.endpoint_id], tenant_id="t_other")


def _move_the_event(parts: Parts) -> None:
    delivery = parts.choose(parts.ended())
    calls = [p for p in parts.of[h.Publish] if p.event_id == delivery.event_id]
    if not calls:
        does_not_apply()
    for publish in calls:
        parts.put(publish, tenant_id="t_other", key="")


def _fan_out_for_another_tenant(parts: Parts) -> None:
    parts.put(parts.choose(parts.of[h.DeliveryRecord]), tenant_id="t_other")


# --- state-after-final, two-owners, unexpected-rejected


def _go_on_after_the_end(parts: Parts) -> None:
    delivery = parts.choose(parts.ended("delivered", "dead_lettered", "cancelled", arrivals=0))
    last = parts.transitions[delivery.delivery_id][-1]
    state = parts.rng.choice(("retrying", "cancelled", "dead_lettered", "delivered"))
    parts.append_transition(last, state=state, attempt=None)


def _send_after_a_dead_letter(parts: Parts) -> None:
    delivery = parts.choose(parts.ended("dead_lettered"))
    last = parts.seen(delivery)[-1]
    at_ns = parts.ended_at_ns + parts.rng.randrange(1_000) * MS
    parts.repeat(last, at_ns, status=None, answered_at_ns=None, is_answer_written=False)


def _neighbours(parts: Parts) -> tuple[h.TransitionRecord, h.TransitionRecord]:
    known = parts.of[h.TransitionRecord]
    return parts.choose(  # type: ignore[no-any-return]
        (a, b) for a, b in pairwise(known) if a.partition == b.partition
    )


def _swap_two_stamps(parts: Parts) -> None:
    first, second = _neighbours(parts)
    parts.put(first, epoch=second.epoch, sequence=second.sequence)
    parts.put(second, epoch=first.epoch, sequence=first.sequence)


def _use_a_stamp_twice(parts: Parts) -> None:
    first, second = _neighbours(parts)
    parts.put(second, epoch=first.epoch, sequence=first.sequence)


def _write_under_an_old_epoch(parts: Parts) -> None:
    _, second = _neighbours(parts)
    parts.put(second, epoch=0, sequence=second.sequence + 1_000)


def _dead_letters_of_two_owners(parts: Parts) -> None:
    letter = parts.choose(parts.of[h.DeadLetterRecord])
    parts.of[h.DeadLetterRecord].append(replace(letter, offset=letter.offset + 1_000, epoch=0))


def _refuse_a_good_record(parts: Parts) -> None:
    topic = parts.rng.choice(("events", "deliveries"))
    parts.of[h.RejectedRecord].append(h.RejectedRecord(topic, 1, parts.rng.randrange(1_000), "unreadable"))


def _refuse_more_than_the_poison(parts: Parts) -> None:
    poison = parts.choose(f for f in parts.of[h.Fault] if f.kind == "poison")
    parts.put(poison, rejected_max=0)


RECORDS: dict[ViolationClass, tuple[Mutation, ...]] = {
    ViolationClass.ATTEMPT_GAP: (
        _skip_a_number,
        _repeat_a_number,
        _miscount,
        _lose_an_attempt_in_the_middle,
        _fall_back_in_the_schedule,
    ),
    ViolationClass.LOG_MISSING: (
        _drop_a_row,
        _drop_all_rows_of_a_delivery,
        _send_and_never_record,
        _forget_a_failure,
        _forget_it_long_before_a_kill,
    ),
    ViolationClass.LOG_PHANTOM: (
        _invent_a_row,
        _lie_in_a_row,
        _hide_the_request,
        _come_to_a_status_nobody_gave,
    ),
    ViolationClass.LOG_DUPLICATE: (_insert_a_row_twice, _insert_an_attempt_under_two_stamps),
    ViolationClass.BAD_SIGNATURE: (_spoil_a_signature, _sign_another_time),
    ViolationClass.ID_MISMATCH: (
        _send_other_bytes,
        _freeze_other_bytes,
        _answer_a_key_with_two_ids,
        _accept_other_data_under_the_key,
        _name_two_deliveries_alike,
    ),
    ViolationClass.CROSS_TENANT: (_move_the_endpoint, _move_the_event, _fan_out_for_another_tenant),
    ViolationClass.STATE_AFTER_FINAL: (_go_on_after_the_end, _send_after_a_dead_letter),
    ViolationClass.TWO_OWNERS: (
        _swap_two_stamps,
        _use_a_stamp_twice,
        _write_under_an_old_epoch,
        _dead_letters_of_two_owners,
    ),
    ViolationClass.UNEXPECTED_REJECTED: (_refuse_a_good_record, _refuse_more_than_the_poison),
}
