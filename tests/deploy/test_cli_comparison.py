"""The demo's comparison finds every kind of difference, and none where there is none."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from deploy.client.answers import AttemptRow, DeliveryRow
from deploy.demo.comparison import Told, compare
from deploy.receiver.arrival import Arrival

DATA = b'{"order": 1.10}'
BODY = b'{"id":"evt_1","type":"a","data":{"order": 1.10}}'


def arrival(status: int, number: int = 1) -> Arrival:
    return Arrival(1, "/failing", (("webhook-id", "evt_1"),), BODY, "ok", status, number)


def delivery() -> DeliveryRow:
    attempts = (AttemptRow(1, "retrying", "", 500), AttemptRow(2, "delivered", "", 200))
    return DeliveryRow("dlv_1", "evt_1", "ep_1", "a", "delivered", attempt_count=2, attempts=attempts)


def differences(told: Told, arrivals: list[Arrival]) -> list[str]:
    return compare([told], {("failing", "evt_1"): arrivals})[1]


def test_two_sides_that_agree_do_not_differ() -> None:
    tallies, found = compare(
        [Told("failing", "evt_1", DATA, delivery())], {("failing", "evt_1"): [arrival(500), arrival(200)]}
    )

    assert found == []
    assert (tallies["failing"].requests_told, tallies["failing"].requests_received) == (2, 2)


Change = Callable[[Told, list[Arrival]], tuple[Told, list[Arrival]]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda told, seen: (told, seen[:1]), "the receiver answered [500]"),
        (lambda told, seen: (told, seen[1:]), "the receiver answered [200]"),
        (lambda told, _: (told, []), "the receiver answered []"),
        (lambda told, seen: (told, [*seen, seen[1]]), "accepted 2 times"),
        (
            lambda told, seen: (told, [seen[0], replace(seen[1], verdict="bad_signature")]),
            "signature was judged",
        ),
        (lambda told, seen: (told, [seen[0], replace(seen[1], body=BODY + b" ")]), "2 different bodies"),
        (lambda told, seen: (replace(told, data=b'{"order": 2}'), seen), "other data than was published"),
        (
            lambda told, seen: (replace(told, delivery=replace(told.delivery, state="dead_lettered")), seen),
            "the API says dead_lettered",
        ),
        (
            lambda told, seen: (replace(told, delivery=replace(told.delivery, state="retrying")), seen),
            "which is no end",
        ),
        (
            lambda told, seen: (replace(told, delivery=replace(told.delivery, attempt_count=3)), seen),
            "counts 3 attempts and shows 2",
        ),
    ],
)
def test_every_kind_of_difference_is_named(change: Change, sentence: str) -> None:
    told, arrivals = change(Told("failing", "evt_1", DATA, delivery()), [arrival(500), arrival(200)])

    assert any(sentence in found for found in differences(told, arrivals))


def test_requests_that_the_api_knows_nothing_of_are_a_difference() -> None:
    _, found = compare([], {("failing", "evt_9"): [arrival(200)]})

    assert found == ["failing, evt_9: 1 requests received that the API knows nothing of"]


def test_a_resend_on_a_dead_connection_may_have_arrived_or_not() -> None:
    attempts = (AttemptRow(1, "delivered", "", 200, requests_sent=2),)
    told = Told("failing", "evt_1", DATA, replace(delivery(), attempt_count=1, attempts=attempts))

    assert differences(told, [arrival(200)]) == []
    assert differences(told, [arrival(500), arrival(200)]) == []
    assert differences(told, [arrival(500), arrival(500), arrival(200)]) != []
