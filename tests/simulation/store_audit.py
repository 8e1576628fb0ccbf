"""What must hold in a shard's store after every batch, whoever wrote it and whenever the process died."""

from collections import Counter

from dataflows.connectors.shard_store.memory import MemoryStore
from operators.shard.store_port import Family
from schemas.wire import store_keys
from schemas.wire.store_rows import PENDING_ROW, SEEN_ROW


def audit(store: MemoryStore) -> None:
    """Asserts that the families agree with one another.

    A delivery that waits has a `pending` row, is in exactly one of `ready` and `due`, and `seen` leads to it.
    A final one has none of the three. (A `due` key without its `pending` row would be legal: deletion leaves
    some behind, and the timers discard them. Nothing that this version does makes one.)
    """
    pending = {key: PENDING_ROW.decode(raw) for key, raw in store.scan_all(Family.PENDING)}
    ready = {key for key, _ in store.scan_all(Family.READY)}
    due = Counter(store_keys.parse_due_key(key)[1] for key, _ in store.scan_all(Family.DUE))
    assert all(count == 1 for count in due.values()), f"twice in `due`: {due.most_common(3)}"
    assert not ready & due.keys(), f"in `ready` and in `due`: {sorted(ready & due.keys())[:3]}"
    assert ready | due.keys() == pending.keys(), (
        f"without a `pending` row: {sorted((ready | due.keys()) - pending.keys())[:3]}, "
        f"in neither `ready` nor `due`: {sorted(pending.keys() - ready - due.keys())[:3]}"
    )
    for key, _ in store.scan_all(Family.DUE):
        at_ms, work_key = store_keys.parse_due_key(key)
        assert pending[work_key].next_attempt_at_ms == at_ms, f"{work_key!r} is due at another time"
    led_to = []
    for generation in store.generations():
        for delivery_id, raw in store._generations[generation].values.items():
            row = SEEN_ROW.decode(raw)
            assert not (row.has_row and row.state.is_final), f"{delivery_id!r} is final and has a row"
            if row.has_row:
                work_key = store_keys.work_key(row.endpoint_id, row.lane, row.offset)
                assert work_key in pending, f"`seen` leads {delivery_id!r} to no row"
                assert pending[work_key].delivery.id == delivery_id.decode()
                led_to.append(work_key)
    assert sorted(led_to) == sorted(pending), "`seen` does not lead to every row of `pending` exactly once"
