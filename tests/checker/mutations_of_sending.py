"""Planted mutations of what is sent: lost, ghost, repeated, early, late, switched off, too many at once."""

from msgspec.structs import replace

from deploy.checker import history as h
from deploy.checker.violation import ViolationClass
from tests.checker.model_clockwork import MS
from tests.checker.planting import Mutation, Parts, does_not_apply

# --- lost


def _drop_every_trace_of_its_sending(parts: Parts) -> None:
    delivery = parts.choose(d for d in parts.ended("delivered") if parts.is_plain(d))
    for transition in list(parts.transitions[delivery.delivery_id]):
        parts.drop_transition(transition)
    parts.drop(*parts.seen(delivery))


def _drop_the_whole_flow(parts: Parts) -> None:
    delivery = parts.choose(d for d in parts.ended("delivered", "dead_lettered") if parts.is_plain(d))
    for transition in list(parts.transitions[delivery.delivery_id]):
        parts.drop_transition(transition)
    parts.drop(*parts.seen(delivery), delivery)
    letters = [x for x in parts.of[h.DeadLetterRecord] if x.delivery_id == delivery.delivery_id]
    parts.drop(*letters, *(r for r in parts.of[h.StoreRow] if r.delivery_id == delivery.delivery_id))


def _drop_the_dead_letter(parts: Parts) -> None:
    delivery = parts.choose(d for d in parts.ended("dead_lettered") if parts.is_plain(d))
    if any(arrival.status == 200 for arrival in parts.seen(delivery)):
        does_not_apply()
    parts.drop(*(x for x in parts.of[h.DeadLetterRecord] if x.delivery_id == delivery.delivery_id))


def _witness_answered_500_to_what_was_delivered(parts: Parts) -> None:
    delivery = parts.choose(d for d in parts.ended("delivered") if parts.is_plain(d))
    for arrival in parts.seen(delivery):
        if arrival.status == 200:
            parts.put(arrival, status=500)


def _dead_letter_without_cause(parts: Parts) -> None:
    letter = parts.choose(
        x
        for x in parts.of[h.DeadLetterRecord]
        if x.reason == "retries_exhausted"
        and any(parts.is_plain(d) and d.delivery_id == x.delivery_id for d in parts.ended("dead_lettered"))
    )
    seen = parts.arrivals[letter.event_id, letter.endpoint_id]
    if any(a.status == 200 for a in seen) or any(f.kind == "clock_step" for f in parts.of[h.Fault]):
        does_not_apply()
    reasons = ["permanent_status", "endpoint_gone", "too_old"]
    if parts.run.window_ms > 1_000_000:
        reasons += ["expired", "expired_while_held"]
    parts.put(letter, reason=parts.rng.choice(reasons))


def _gave_up_early(parts: Parts) -> None:
    letter = parts.choose(
        x
        for x in parts.of[h.DeadLetterRecord]
        if x.reason == "retries_exhausted" and x.attempt_count > 1 and parts.run.window_ms > 1_000_000
    )
    delivery = parts.choose(
        d for d in parts.ended("dead_lettered") if d.delivery_id == letter.delivery_id and parts.is_plain(d)
    )
    if any(a.status == 200 for a in parts.seen(delivery)) or parts.of[h.Fault]:
        does_not_apply()
    *earlier, before, last = parts.transitions[delivery.delivery_id]
    seen = parts.seen(delivery)
    parts.drop_transition(last)
    parts.put(before, state="dead_lettered", reason="retries_exhausted", next_attempt_at_ms=0)
    assert last.attempt is not None
    if last.attempt.requests_sent:
        parts.drop(seen[-1])
    parts.put(letter, attempt_count=len(earlier) + 1)


def _cancelled_by_nobody(parts: Parts) -> None:
    delivery = parts.choose(d for d in parts.ended("delivered") if parts.is_plain(d))
    last = parts.transitions[delivery.delivery_id][-1]
    parts.drop(*(a for a in parts.seen(delivery) if a.status == 200), parts.row_of(last))
    count = last.attempt_count - 1
    reason = parts.rng.choice(("cancelled_by_person", "endpoint_deleted"))
    parts.put(last, state="cancelled", reason=reason, attempt=None, attempt_count=count, schedule_step=count)


# --- duplicate-after-success


def _send_again(parts: Parts) -> None:
    delivery = parts.choose(parts.ended("delivered"))
    success = parts.choose(a for a in parts.seen(delivery)[-1:] if a.status == 200)
    assert success.answered_at_ns is not None
    later = parts.choose((50, 500, 5_000, 60_000))
    parts.repeat(success, success.answered_at_ns + later * MS)


def _send_again_and_hang(parts: Parts) -> None:
    delivery = parts.choose(parts.ended("delivered"))
    success = parts.choose(a for a in parts.seen(delivery)[-1:] if a.status == 200)
    at_ns = success.answered_at_ns + 300 * MS
    parts.repeat(success, at_ns, status=None, answered_at_ns=None, is_answer_written=False)


def _send_again_just_before_a_kill(parts: Parts) -> None:
    kill = parts.choose(f for f in parts.of[h.Fault] if f.kind == "kill")
    before = [
        (d, a)
        for d in parts.ended("delivered")
        for a in parts.seen(d)[-1:]
        if a.status == 200 and a.answered_at_ns is not None and a.answered_at_ns < kill.began_at_ns - 100 * MS
    ]
    _, success = parts.choose(before)
    parts.repeat(success, kill.began_at_ns - 5 * MS, status=None, answered_at_ns=None)


def _record_a_second_success(parts: Parts) -> None:
    delivery = parts.choose(parts.ended("delivered"))
    success = parts.choose(a for a in parts.seen(delivery)[-1:] if a.status == 200)
    if any(f.kind == "clock_step" for f in parts.of[h.Fault]):
        does_not_apply()
    last = parts.transitions[delivery.delivery_id][-1]
    assert last.attempt is not None
    by_ms = parts.ended_at_ns // MS - success.received_at_ns // MS
    attempt = replace(
        last.attempt,
        number=last.attempt.number + 1,
        started_at_ms=last.attempt.started_at_ms + by_ms,
        finished_at_ms=last.attempt.finished_at_ms + by_ms,
    )
    count = last.attempt_count + 1
    parts.append_transition(last, attempt=attempt, attempt_count=count, schedule_step=count)
    parts.repeat(success, success.received_at_ns + by_ms * MS)


# --- too-many-repeats


def _cut(parts: Parts, fault: h.Fault, count: int) -> int:
    """Adds requests that the fault cut off, of deliveries first sent after it."""
    fresh = [
        parts.seen(d)[0]
        for d in parts.ended()
        if parts.seen(d)[0].received_at_ns > fault.ended_at_ns + 600 * MS
        and parts.seen(d)[0].received_at_ns > (fault.recovered_at_ns or 0)
    ]
    for arrival in fresh[:count]:
        parts.repeat(
            arrival,
            fault.began_at_ns - parts.rng.randrange(1, 20) * MS,
            status=None,
            answered_at_ns=None,
            is_answer_written=False,
        )
    return min(count, len(fresh))


def _repeat_more_than_the_kill_held(parts: Parts) -> None:
    kill = parts.choose(f for f in parts.of[h.Fault] if f.kind in ("kill", "power_cut"))
    added = _cut(parts, kill, parts.rng.randint(1, 4))
    if not added or len(parts.of[h.Fault]) > 1:
        does_not_apply()
    parts.put(kill, repeats_max=added - 1)


def _repeat_after_a_graceful_stop(parts: Parts) -> None:
    stop = parts.choose(f for f in parts.of[h.Fault] if f.kind == "stop" and f.recovered_at_ns is not None)
    if len(parts.of[h.Fault]) > 1 or not _cut(parts, stop, 1):
        does_not_apply()


def _the_kill_held_less_than_it_repeated(parts: Parts) -> None:
    kill = parts.choose(f for f in parts.of[h.Fault] if f.kind in ("kill", "power_cut") and f.in_flight)
    if len(parts.of[h.Fault]) > 1 or not any(row.after_crash for row in parts.of[h.LogRow]):
        does_not_apply()
    cut = [
        delivery
        for delivery in parts.ended("delivered")
        for first, second in [parts.seen(delivery)[:2] if len(parts.seen(delivery)) == 2 else (None, None)]
        if first is not None
        and second is not None
        and len(parts.transitions[delivery.delivery_id]) == 1
        and first.received_at_ns < kill.began_at_ns < second.received_at_ns
    ]
    parts.choose(cut)
    parts.put(kill, repeats_max=0)


# --- ghost


def _send_an_unknown_event(parts: Parts) -> None:
    arrival = parts.choose(parts.of[h.Arrival])
    _needs_no_unnamed(parts)
    parts.repeat(arrival, arrival.received_at_ns + 7 * MS, webhook_id="evt_nobody_published")


def _send_to_an_unknown_path(parts: Parts) -> None:
    arrival = parts.choose(parts.of[h.Arrival])
    parts.repeat(arrival, arrival.received_at_ns + 7 * MS, path="/nobody")


def _send_what_was_refused(parts: Parts) -> None:
    delivery = parts.choose(parts.ended())
    calls = [p for p in parts.of[h.Publish] if p.event_id == delivery.event_id]
    if not calls or any(p.result is h.Result.INFO for p in parts.of[h.Publish]):
        does_not_apply()
    for publish in calls:
        parts.put(publish, result=h.Result.FAIL)


def _send_to_who_did_not_subscribe(parts: Parts) -> None:
    delivery = parts.choose(parts.ended())
    if delivery.event_id not in {p.event_id for p in parts.of[h.Publish]}:
        does_not_apply()
    patterns = parts.rng.choice((("zoo.opened",), ("order",), ("user.gone.for.ever", "order.created.*")))
    parts.put(parts.endpoints[delivery.endpoint_id], patterns=patterns)


def _send_before_it_was_published(parts: Parts) -> None:
    delivery = parts.choose(parts.ended())
    calls = [p for p in parts.of[h.Publish] if p.event_id == delivery.event_id]
    if len(calls) != 1 or any(p.result is h.Result.INFO for p in parts.of[h.Publish]):
        does_not_apply()
    at_ns = parts.seen(delivery)[0].received_at_ns + parts.rng.randrange(1, 900) * MS
    parts.put(calls[0], invoked_at_ns=at_ns, ended_at_ns=at_ns + MS)


def _forget_the_publish(parts: Parts) -> None:
    _needs_no_unnamed(parts)
    delivery = parts.choose(parts.ended())
    calls = [p for p in parts.of[h.Publish] if p.event_id == delivery.event_id]
    if not calls or any(p.result is h.Result.INFO for p in parts.of[h.Publish]):
        does_not_apply()
    parts.drop(*calls)


def _needs_no_unnamed(parts: Parts) -> None:
    if any(p.result is h.Result.INFO and not p.key for p in parts.of[h.Publish]):
        does_not_apply()


# --- early-retry, late-retry


def _retry(parts: Parts) -> tuple[h.DeliveryRecord, int, h.TransitionRecord, h.TransitionRecord]:
    """Chooses two following attempts that the witness saw, in a flow without faults and calls."""
    found = []
    for delivery in parts.ended(attempts=2, arrivals=2):
        transitions = parts.transitions[delivery.delivery_id]
        attempts = [t.attempt for t in transitions]
        is_whole = all(a is not None and a.requests_sent == 1 for a in attempts)
        if is_whole and len(parts.seen(delivery)) == len(transitions):
            found.append((delivery, transitions))
    delivery, transitions = parts.choose(found)
    place = parts.rng.randrange(1, len(transitions))
    if parts.of[h.Fault] or parts.calls_for(delivery.endpoint_id) or parts.run.window_ms < 1_000_000:
        does_not_apply()
    return delivery, place, transitions[place - 1], transitions[place]


def _come_early(parts: Parts) -> None:
    delivery, place, before, after = _retry(parts)
    seen = parts.seen(delivery)
    answered_ns = seen[place - 1].answered_at_ns or seen[place - 1].received_at_ns
    # Somewhere between "at once" and "half the delay too early"; in both records alike.
    gap_ms = (seen[place].received_at_ns - answered_ns) // MS
    delay_ms = parts.run.delays_ms[place - 1]
    wanted_ms = parts.rng.randrange(0, delay_ms // 2)
    if before.attempt is not None and before.attempt.status is None:
        wanted_ms = delay_ms // 4
    parts.shift_try(after, seen[place], wanted_ms - gap_ms)


def _come_early_and_record_it_on_time(parts: Parts) -> None:
    delivery, place, _, _ = _retry(parts)
    seen = parts.seen(delivery)
    answered_ns = seen[place - 1].answered_at_ns or seen[place - 1].received_at_ns
    delay_ms = parts.run.delays_ms[place - 1]
    parts.drop(seen[place])
    parts.repeat(seen[place], answered_ns + delay_ms * MS // 2)


def _ignore_retry_after(parts: Parts) -> None:
    delivery, place, before, _ = _retry(parts)
    if before.attempt is None or before.attempt.status is None:
        does_not_apply()
    parts.put(parts.seen(delivery)[place - 1], retry_after_ms=parts.rng.randrange(20_000, 90_000))


def _come_late(parts: Parts) -> None:
    delivery, place, _, after = _retry(parts)
    if place != len(parts.seen(delivery)) - 1 or _is_pausing(parts, delivery):
        does_not_apply()
    parts.shift_try(after, parts.seen(delivery)[place], parts.rng.randrange(8_000, 90_000))


def _never_come(parts: Parts) -> None:
    delivery, place, before, _ = _retry(parts)
    if _is_pausing(parts, delivery):
        does_not_apply()
    for transition in parts.transitions[delivery.delivery_id][place:]:
        parts.drop_transition(transition)
    parts.drop(*parts.seen(delivery)[place:])
    parts.drop(*(x for x in parts.of[h.DeadLetterRecord] if x.delivery_id == delivery.delivery_id))
    row = next(r for r in parts.of[h.StoreRow] if r.delivery_id == delivery.delivery_id)
    parts.put(row, state="retrying", attempt_count=before.attempt_count, has_row=True)
    parts.put(parts.run, is_drained=False)
    parts.ended_at_ns += parts.rng.randrange(30_000, 600_000) * MS


def _is_pausing(parts: Parts, delivery: h.DeliveryRecord) -> bool:
    path = parts.endpoints[delivery.endpoint_id].path
    return any(a.path == path and (a.retry_after_ms or a.status == 410) for a in parts.of[h.Arrival])


# --- after-disable, after-delete, sent-while-paused


def _shut_before(parts: Parts, action: h.Action) -> None:
    """A call was answered long before a request went out."""
    parts.needs_no_fault()
    arrival = parts.choose(parts.of[h.Arrival])
    endpoint_id = parts.paths[arrival.path].endpoint_id
    if parts.calls_for(endpoint_id):
        does_not_apply()
    at_ns = arrival.received_at_ns - parts.rng.randrange(5_200, 60_000) * MS
    parts.of[h.Control].append(h.Control(at_ns, at_ns + 20 * MS, h.Result.OK, action, endpoint_id))


def _send_after_the_call(parts: Parts, action: h.Action) -> None:
    """A request went out long after a call that was really made."""
    call = parts.choose(c for c in parts.of[h.Control] if c.action is action and c.result is h.Result.OK)
    parts.needs_no_fault()
    later = [
        c.invoked_at_ns for c in parts.calls_for(call.endpoint_id) if c.invoked_at_ns > call.invoked_at_ns
    ]
    path = parts.endpoints[call.endpoint_id].path
    arrival = parts.choose(a for a in parts.of[h.Arrival] if a.path == path)
    from_ns = call.ended_at_ns + 5_200 * MS
    until_ns = min(later, default=from_ns + 30_000 * MS)
    if until_ns < from_ns + 100 * MS:
        does_not_apply()
    parts.repeat(arrival, parts.rng.randrange(from_ns, until_ns))


def _shutting(action: h.Action) -> tuple[Mutation, ...]:
    def _shut_long_before(parts: Parts) -> None:
        _shut_before(parts, action)

    def _send_long_after(parts: Parts) -> None:
        _send_after_the_call(parts, action)

    return _shut_long_before, _send_long_after


def _send_after_gone(parts: Parts) -> None:
    parts.needs_no_fault()
    gone = parts.choose(a for a in parts.of[h.Arrival] if a.status == 500 and a.answered_at_ns is not None)
    endpoint_id = parts.paths[gone.path].endpoint_id
    if parts.calls_for(endpoint_id):
        does_not_apply()
    parts.choose(
        a
        for a in parts.of[h.Arrival]
        if a.path == gone.path and a.received_at_ns > gone.answered_at_ns + 5_050 * MS
    )
    parts.put(gone, status=410)


# --- over-concurrency


def _open_too_many_at_once(parts: Parts) -> None:
    parts.needs_no_fault()
    arrival = parts.choose(a for a in parts.of[h.Arrival] if a.answered_at_ns is not None)
    for number in range(parts.run.endpoint_in_flight_max + parts.rng.randint(1, 3)):
        at_ns = arrival.received_at_ns + number * 100_000
        parts.repeat(arrival, at_ns, webhook_id=f"evt_extra_{number}", answered_at_ns=at_ns + 90 * MS)


def _cap_lower_than_what_was_open(parts: Parts) -> None:
    parts.needs_no_fault()
    by_path: dict[str, int] = {}
    for path in parts.paths:
        edges: list[tuple[int, int]] = []
        for a in parts.of[h.Arrival]:
            if a.path == path and a.answered_at_ns is not None:
                edges += [(a.received_at_ns, 1), (a.answered_at_ns, -1)]
        is_open = most = 0
        for _, step in sorted(edges):
            is_open += step
            most = max(most, is_open)
        by_path[path] = most
    path = parts.choose(path for path, most in by_path.items() if most > 1)
    parts.put(parts.paths[path], in_flight_max=by_path[path] - 1)


SENDING: dict[ViolationClass, tuple[Mutation, ...]] = {
    ViolationClass.LOST: (
        _drop_every_trace_of_its_sending,
        _drop_the_whole_flow,
        _drop_the_dead_letter,
        _witness_answered_500_to_what_was_delivered,
        _dead_letter_without_cause,
        _gave_up_early,
        _cancelled_by_nobody,
    ),
    ViolationClass.DUPLICATE_AFTER_SUCCESS: (
        _send_again,
        _send_again_and_hang,
        _send_again_just_before_a_kill,
        _record_a_second_success,
    ),
    ViolationClass.TOO_MANY_REPEATS: (
        _repeat_more_than_the_kill_held,
        _repeat_after_a_graceful_stop,
        _the_kill_held_less_than_it_repeated,
    ),
    ViolationClass.GHOST: (
        _send_an_unknown_event,
        _send_to_an_unknown_path,
        _send_what_was_refused,
        _send_to_who_did_not_subscribe,
        _send_before_it_was_published,
        _forget_the_publish,
    ),
    ViolationClass.EARLY_RETRY: (_come_early, _come_early_and_record_it_on_time, _ignore_retry_after),
    ViolationClass.LATE_RETRY: (_come_late, _never_come),
    ViolationClass.AFTER_DISABLE: (*_shutting(h.Action.DISABLE), _send_after_gone),
    ViolationClass.AFTER_DELETE: _shutting(h.Action.DELETE),
    ViolationClass.SENT_WHILE_PAUSED: _shutting(h.Action.PAUSE),
    ViolationClass.OVER_CONCURRENCY: (_open_too_many_at_once, _cap_lower_than_what_was_open),
}
