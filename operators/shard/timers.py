"""The timers of a shard: a range scan of `due` from a cursor, with a heap for the next few seconds.

Ten million retries stand in RocksDB and cost nothing until their time is near; the heap holds only what is
due within the horizon. A `due` key that fires without its `pending` row, or whose row names another time, is
a leftover and is discarded.

Rejected: one engine timer per retry (59 ms per activation at a million), a scan from the start of the family
(it
walks over the tombstones of everything that fired: 12 ms instead of 3 us).
"""

from heapq import heappop, heappush

from msgspec.structs import replace

from operators.shard.live import EndpointQueue, Live
from operators.shard.park import has_parked_row, reject_row
from operators.shard.state import ShardState
from operators.shard.store_port import Family
from operators.suspicion import Phase, run_length
from schemas.delivery import Lane
from schemas.wire import store_keys
from schemas.wire.store_rows import PENDING_ROW, PendingRow


class DueTimers:
    """The near future of one shard.

    Invariants:
        Every row of `due` below `_loaded_to` is in the heap; rows at or above it are only in the store.
    """

    def __init__(self, state: ShardState) -> None:
        self._state = state
        self._heap: list[bytes] = []
        self._loaded_to = b""

    def note(self, due_key: bytes) -> None:
        """Takes notice of a row of `due` that is being written."""
        if due_key < self._loaded_to:
            heappush(self._heap, due_key)

    def next_at_ms(self) -> int:
        """Returns when `fire` has something to do: a timer, the end of a pause, or rows to load."""
        key = self._heap[0] if self._heap else self._loaded_to
        timer_at_ms = store_keys.parse_due_key(key)[0] if key else 0
        pauses = self._state.pauses
        return min(timer_at_ms, pauses[0][0]) if pauses else timer_at_ms

    def fire(self, now_ms: int) -> int:
        """Moves what is due from `due` to `ready`, into memory where there is room; returns how many it was.

        At most a block of them; `next_at_ms` says at once that there is more.
        """
        state = self._state
        state.release_pauses(now_ms)
        self._load(now_ms)
        fired: list[bytes] = []
        limit = store_keys.due_time(now_ms + 1)
        block_max = 1 if state.tries.is_wary and self._is_suspect_next() else state.policy.due_block_max
        while self._heap and self._heap[0] < limit and len(fired) < block_max:
            if fired and state.tries.is_wary and self._is_suspect_next():
                break
            fired.append(heappop(self._heap))
        if not fired:
            return 0
        batch = state.store.batch()
        parsed = [store_keys.parse_due_key(key) for key in fired]
        offsets = [store_keys.parse_work_key(work_key)[2] for _, work_key in parsed]
        if has_parked_row(state, offsets):
            reject_row(state, parsed[0][1], now_ms, due_key=fired[0])
            return 1
        state.tries.begin(Phase.READ, offsets)
        rows = state.store.get_many(Family.PENDING, [work_key for _, work_key in parsed])
        count = 0
        for due, (at_ms, work_key), raw in zip(fired, parsed, rows, strict=True):
            batch.delete(Family.DUE, due)
            row = PENDING_ROW.decode(raw) if raw is not None else None
            if row is None or row.next_attempt_at_ms != at_ms:
                continue
            if row.offset in state.live:
                continue  # it fired before: two of it in memory would be two requests
            count += 1
            batch.put(Family.READY, work_key, b"")
            if row.written_by != state.epoch and row.offset < state.resend_below:
                # It waited for its time when the earlier owner died, so that one did not send it.
                batch.put(Family.PENDING, work_key, PENDING_ROW.encode(replace(row, written_by=state.epoch)))
            self._make_ready(row, at_ms)
        state.store.write(batch)
        state.tries.done()
        return count

    def _is_suspect_next(self) -> bool:
        if not self._heap:
            return False
        _, work_key = store_keys.parse_due_key(self._heap[0])
        return bool(self._state.tries.group(store_keys.parse_work_key(work_key)[2]))

    def _make_ready(self, row: PendingRow, at_ms: int) -> None:
        state = self._state
        queue = state.queue_of(row.delivery.endpoint_id)
        if state.can_hold(queue, row.lane):
            live = live_of(row, at_ms)
            state.remember(live)
            queue.lanes[row.lane].append(live)
        else:
            queue.lower_cursor(row.lane, row.offset)
        state.activate(queue)

    def _load(self, now_ms: int) -> None:
        """Reads the store's rows up to the horizon, when the loaded part is used up."""
        policy = self._state.policy
        if self._heap or (self._loaded_to and self._loaded_to > store_keys.due_time(now_ms + 1)):
            return
        until = store_keys.due_time(now_ms + policy.due_horizon_ms)
        rows = self._state.store.scan(
            Family.DUE, self._loaded_to, max(until, self._loaded_to), policy.due_block_max
        )
        for key, _ in rows:
            heappush(self._heap, key)
        if len(rows) == policy.due_block_max:
            self._loaded_to = rows[-1][0] + b"\0"
        else:
            self._loaded_to = max(until, self._loaded_to)


def live_of(row: PendingRow, ready_at_ms: int) -> Live:
    """Returns a stored delivery as it goes on in memory."""
    live = Live(row.offset, row.lane, row.delivery, row.fanned_out_at_ms, ready_at_ms)
    live.attempt_count, live.schedule_step = row.attempt_count, row.schedule_step
    live.last_status, live.last_error_code = row.last_status, row.last_error_code
    live.is_stored = True
    live.may_have_been_sent = row.may_have_been_sent
    if row.cancelled_by is not None:
        live.is_cancelled, live.actor = True, row.cancelled_by
    return live


def read_ready(state: ShardState, queue: EndpointQueue, lane: Lane, now_ms: int, limit: int) -> list[Live]:
    """Returns the oldest of a lane that are only in the store, and moves the lane's cursor behind them.

    They are not taken into memory; `lower_cursor` gives back what the caller does not use.
    """
    start = store_keys.work_key(queue.endpoint_id, lane, queue.cursor[lane])
    rows = state.store.scan(Family.READY, start, store_keys.lane_end(queue.endpoint_id, lane), limit)
    if rows and state.tries.is_wary:
        groups = [state.tries.group(store_keys.parse_work_key(key)[2]) for key, _ in rows]
        limit = min(limit, run_length(groups))
        rows = rows[:limit]
    keys = [key for key, _ in rows if store_keys.parse_work_key(key)[2] not in state.live]
    offsets = [store_keys.parse_work_key(key)[2] for key in keys]
    found: list[Live] = []
    if has_parked_row(state, offsets):
        reject_row(state, keys.pop(), now_ms)
        offsets.clear()
    state.tries.begin(Phase.READ, offsets)
    for raw in state.store.get_many(Family.PENDING, keys):
        if raw is None:
            continue
        row = PENDING_ROW.decode(raw)
        live = live_of(row, now_ms)
        live.may_have_been_sent |= row.written_by != state.epoch and row.offset < state.resend_below
        found.append(live)
    state.tries.done()
    queue.has_more[lane] = len(rows) == limit
    if rows:
        queue.cursor[lane] = store_keys.parse_work_key(rows[-1][0])[2] + 1
    return found


def refill(state: ShardState, queue: EndpointQueue, lane: Lane, now_ms: int) -> None:
    """Reads the oldest rows of one lane back from `ready`, when its part in memory is empty.

    Without room it takes one, which its caller sends or ends: a full memory slows down and never stops.
    """
    room = state.policy.live_max - len(state.live) if state.has_room else 1
    for live in read_ready(state, queue, lane, now_ms, min(state.policy.refill_max, room)):
        if queue.lanes[lane] and not state.has_room:
            queue.lower_cursor(lane, live.offset)
            return
        state.remember(live)
        queue.lanes[lane].append(live)
