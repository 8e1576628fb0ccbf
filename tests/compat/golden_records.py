"""One record of every kind, with every field filled, and the golden files that hold their bytes.

`python -m tests.compat.golden_records` writes what the golden files lack, and never changes what they hold:
bytes that were written once are in somebody's topic or store.
"""

import json
from pathlib import Path
from typing import Any

from msgspec import Raw, Struct, structs

from schemas import (
    attempt,
    command,
    dead_letter,
    delivery,
    endpoint,
    event,
    replay_job,
    shard_claim,
    transition,
)
from schemas.outcome import ErrorCode, Hop
from schemas.wire import records, store_keys, store_rows
from schemas.wire.frame import Frame

FOLDER = Path(__file__).parent
TOPICS, STORE = "topic_records", "shard_rows"
NOW_MS = 1_800_000_000_000
DIGEST = bytes.fromhex("831c4ca53ed31b5c")
EVENT_ID, DELIVERY_ID = "evt_li4mw2gxyaxh3lubkedckl2nfi", "dlv_dbpai5fvio7v2tkxjow7gfb3rq"

STAMP = transition.RowStamp(3, 1 << 33)
DELIVERY = delivery.Delivery(
    DELIVERY_ID,
    EVENT_ID,
    "ep_1",
    "tenant",
    "order.created",
    "rpl_1",
    b'{"a":"\xc3\xbc"}',
    DIGEST,
    NOW_MS,
    delivery.EventPosition(7, 1 << 40),
    12,
)
RETRY = endpoint.RetryPolicy(delays_ms=(1_000, 60_000), base_ms=2_000, max_ms=3_000, window_ms=4_000)
ENDPOINT = endpoint.Endpoint(
    id="ep_1",
    tenant_id="tenant",
    url="https://example.com/hook?x=1",
    event_types=("order.*", "user.created"),
    secrets=(endpoint.SealedSecret("key-1", b"\0sealed\xff", NOW_MS), endpoint.SealedSecret("key-2", b"new")),
    created_at_ms=NOW_MS,
    updated_at_ms=NOW_MS + 1,
    api_version="2",
    description="für alle",
    headers={"x-one": "1", "x-two": "2"},
    retry=RETRY,
    status=endpoint.EndpointStatus.PAUSED,
    generation=4,
    revision=9,
    timeout_ms=10_000,
    redirects=endpoint.RedirectPolicy.FAIL,
    client_errors=endpoint.ClientErrorPolicy.RETRY,
    ordering=endpoint.Ordering.FIFO,
    max_concurrency=8,
    rate_limit_per_s=2.5,
)
# Fields that came later stand in a sample of their own: the older bytes stay as they are, and are read with
# the fields' defaults.
VERIFIED_ENDPOINT = structs.replace(
    ENDPOINT,
    disabled_at_ms=NOW_MS + 2,
    verification=endpoint.Verification(
        endpoint.VerificationState.PENDING, NOW_MS, ErrorCode.CONNECT_REFUSED, 3
    ),
)
ATTEMPT = attempt.Attempt(
    2,
    NOW_MS,
    NOW_MS + 250,
    "https://example.com/hook?x=1",
    503,
    ErrorCode.TIMEOUT,
    "no answer within 15 s",
    (("retry-after", "120"), ("content-type", "text/html")),
    b"<p>\xff",
    is_body_truncated=True,
    queued_us=1,
    connect_us=2,
    first_byte_us=3,
    total_us=4,
    peer="192.0.2.1:443",
    is_reused_connection=True,
    requests_sent=2,
    after_crash=True,
    hops=(Hop("https://example.com/a", 307, "/b"),),
)

RECORDS: list[tuple[Frame[Any], Struct]] = [
    (records.ENDPOINT, ENDPOINT),
    (records.DISABLED_REPORT, endpoint.DisabledReport("ep_1", 4, NOW_MS, "the endpoint answered 410 Gone")),
    (records.DELIVERY, DELIVERY),
    (
        records.COMMAND,
        command.Command(command.CommandKind.RETRY_NOW, DELIVERY_ID, "ep_1", "someone@example.com", 3),
    ),
    (
        records.TRANSITION_KEY,
        transition.TransitionKey(
            DELIVERY_ID,
            STAMP,
            "ep_1",
            delivery.Lane.RETRY,
            1 << 40,
            delivery.DeliveryState.RETRYING,
            2,
            1,
            NOW_MS + 60_000,
            DIGEST,
            NOW_MS,
        ),
    ),
    (
        records.TRANSITION,
        transition.Transition(
            EVENT_ID,
            "tenant",
            "order.created",
            "rpl_1",
            transition.Reason.FAILED,
            NOW_MS + 250,
            ATTEMPT,
            "someone@example.com",
        ),
    ),
    (records.DEAD_LETTER_KEY, dead_letter.DeadLetterKey(f"{DELIVERY_ID}@7.99", STAMP)),
    (
        records.DEAD_LETTER,
        dead_letter.DeadLetter(
            DELIVERY,
            1 << 40,
            transition.Reason.RETRIES_EXHAUSTED,
            NOW_MS,
            11,
            500,
            ErrorCode.CONNECTION_RESET,
        ),
    ),
    (
        records.REJECTED,
        dead_letter.Rejected("deliveries", 3, 99, "unreadable", "why", b"key", b"\xffvalue", NOW_MS),
    ),
    (
        records.REPLAY_REQUEST,
        replay_job.ReplayRequest("rpl_1", "tenant", "ep_1", NOW_MS, NOW_MS + 1, 12.5, NOW_MS, "someone"),
    ),
    (
        records.REPLAY_PROGRESS,
        replay_job.ReplayProgress("rpl_1", replay_job.ReplayStatus.PAUSED, "cursor", 77, NOW_MS),
    ),
    (records.SHARD_CLAIM, shard_claim.ShardClaim(3, "00ff", NOW_MS, is_released=True, after=12)),
]
GROWN: list[tuple[str, Frame[Any], Struct]] = [
    ("Endpoint with verification", records.ENDPOINT, VERIFIED_ENDPOINT),
]
ROWS: list[tuple[Frame[Any], Struct]] = [
    (
        store_rows.PENDING_ROW,
        store_rows.PendingRow(
            DELIVERY,
            1 << 40,
            delivery.Lane.RETRY,
            NOW_MS,
            3,
            2,
            NOW_MS + 60_000,
            500,
            ErrorCode.CONNECTION_RESET,
            6,
            may_have_been_sent=True,
            cancelled_by="someone",
        ),
    ),
    (
        store_rows.SEEN_ROW,
        store_rows.SeenRow(
            delivery.DeliveryState.RETRYING,
            DIGEST,
            "ep_1",
            delivery.Lane.REPLAY,
            1 << 40,
            has_row=True,
            attempt_count=3,
            schedule_step=2,
            next_attempt_at_ms=NOW_MS,
        ),
    ),
    (store_rows.OUTBOX_ROW, store_rows.OutboxRow("transitions", b"key", b"\xffvalue")),
    (store_rows.ENDPOINT_ROW, store_rows.EndpointRow(NOW_MS, 4)),
    (store_rows.POSITION_ROW, store_rows.PositionRow(1, 2, 3, 4, NOW_MS, 6, 7, is_clean=True)),
    (store_rows.STAMP_ROW, STAMP),
]
EVENT = event.Event(
    tenant_id="tenant",
    type="order.created",
    data=Raw(b'{"a": [1, "\xc3\xbc"]}'),
    id=EVENT_ID,
    idempotency_key="order-77",
    occurred_at_ms=NOW_MS,
    endpoint_ids=("ep_1", "ep_2"),
)
KEYS = {
    "work key": store_keys.work_key("ep_1", delivery.Lane.RETRY, 1 << 40),
    "lane end": store_keys.lane_end("ep_1", delivery.Lane.RETRY),
    "after endpoint": store_keys.after_endpoint("ep_1"),
    "due key": store_keys.due_key(NOW_MS, "ep_1", delivery.Lane.REPLAY, 1 << 40),
    "due time": store_keys.due_time(NOW_MS),
    "outbox key": store_keys.outbox_key(1 << 33),
    "stamp name": store_keys.META_STAMP,
    "position name": store_keys.META_POSITION,
    "log name": store_keys.META_LOG,
}
STORE_KEYS_VERSION = 1


def golden_file(group: str, version: int) -> Path:
    """Returns where the bytes of one version stand."""
    return FOLDER / f"{group}_v{version}.json"


def produced() -> dict[tuple[str, int], dict[str, str]]:
    """Returns what this code writes: by group and version, by name, hexadecimal."""
    result: dict[tuple[str, int], dict[str, str]] = {
        (TOPICS, records.EVENT_VERSION): {"Event": records.encode_event(EVENT).hex()}
    }
    for group, samples in ((TOPICS, RECORDS), (STORE, ROWS)):
        for frame, record in samples:
            result.setdefault((group, frame.prefix[1]), {})[frame.name] = frame.encode(record).hex()
    for name, frame, record in GROWN:
        result[TOPICS, frame.prefix[1]][name] = frame.encode(record).hex()
    result.setdefault((STORE, STORE_KEYS_VERSION), {}).update({name: key.hex() for name, key in KEYS.items()})
    return result


def golden(group: str, version: int) -> dict[str, str]:
    """Returns what was written once."""
    file = golden_file(group, version)
    if not file.exists():
        return {}
    held: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return held


def complain(group: str, version: int, now: dict[str, str], held: dict[str, str]) -> list[str]:
    """Returns what is wrong with the bytes of one version, each with what to do about it."""
    complaints = []
    for name, raw in now.items():
        if name not in held:
            complaints.append(
                f"{name} has no golden bytes of version {version}: run "
                "`python -m tests.compat.golden_records` and commit the file"
            )
        elif held[name] != raw:
            complaints.append(
                f"the bytes of {name} have changed, but its version is still {version}. Records of version "
                f"{version} stand in topics and stores and must stay readable: undo the change, or raise the "
                f"version in schemas/wire, read both, keep {golden_file(group, version).name} as it is, "
                f"and run `python -m tests.compat.golden_records`. Golden: {held[name]}, now: {raw}"
            )
    return complaints


def write_missing() -> None:
    """Adds to the golden files what they lack."""
    for (group, version), now in produced().items():
        held = golden(group, version)
        text = json.dumps(now | held, indent=1, ensure_ascii=False)
        golden_file(group, version).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_missing()
