"""A history's records by type, each type in its own order of time or offset; and what is missing of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec import Struct, field

from deploy.checker.history import (
    SOURCE_OF,
    Arrival,
    Control,
    DeadLetterRecord,
    DeliveryRecord,
    End,
    EndpointKnown,
    Fault,
    LogRow,
    Publish,
    Record,
    RejectedRecord,
    Run,
    Source,
    StoreRow,
    TransitionRecord,
)


class SortedHistory(Struct):
    """The records of one run."""

    runs: list[Run] = field(default_factory=list)
    publishes: list[Publish] = field(default_factory=list)
    endpoints: list[EndpointKnown] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    transitions: list[TransitionRecord] = field(default_factory=list)
    dead_letters: list[DeadLetterRecord] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)
    deliveries: list[DeliveryRecord] = field(default_factory=list)
    log_rows: list[LogRow] = field(default_factory=list)
    store_rows: list[StoreRow] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)


def sort_history(records: Iterable[Record]) -> SortedHistory:
    """Returns the records by type and in order. Sorting is linear for files that are in order already."""
    sorted_ = SortedHistory()
    lists: dict[type, list[Any]] = {
        Run: sorted_.runs,
        Publish: sorted_.publishes,
        EndpointKnown: sorted_.endpoints,
        Arrival: sorted_.arrivals,
        TransitionRecord: sorted_.transitions,
        DeadLetterRecord: sorted_.dead_letters,
        RejectedRecord: sorted_.rejected,
        DeliveryRecord: sorted_.deliveries,
        LogRow: sorted_.log_rows,
        StoreRow: sorted_.store_rows,
        Control: sorted_.controls,
        Fault: sorted_.faults,
        End: sorted_.ends,
    }
    append: dict[type, Callable[[Any], None]] = {kind: known.append for kind, known in lists.items()}
    for record in records:
        append[type(record)](record)
    sorted_.publishes.sort(key=lambda publish: publish.invoked_at_ns)
    sorted_.arrivals.sort(key=lambda arrival: arrival.received_at_ns)
    sorted_.transitions.sort(key=lambda record: (record.partition, record.offset))
    sorted_.dead_letters.sort(key=lambda record: (record.partition, record.offset))
    sorted_.deliveries.sort(key=lambda record: (record.partition, record.offset))
    sorted_.controls.sort(key=lambda control: control.invoked_at_ns)
    sorted_.faults.sort(key=lambda fault: fault.began_at_ns)
    return sorted_


def gaps(sorted_: SortedHistory, declined: frozenset[Source]) -> Iterator[tuple[Source, str]]:
    """Yields the sources that were not written completely, each with the reason."""
    counts: Counter[Source] = Counter()
    for kind, records in (
        (Publish, sorted_.publishes),
        (Arrival, sorted_.arrivals),
        (Control, sorted_.controls),
        (EndpointKnown, sorted_.endpoints),
        (Fault, sorted_.faults),
        (TransitionRecord, sorted_.transitions),
        (DeadLetterRecord, sorted_.dead_letters),
        (RejectedRecord, sorted_.rejected),
        (DeliveryRecord, sorted_.deliveries),
        (LogRow, sorted_.log_rows),
        (StoreRow, sorted_.store_rows),
    ):
        counts[SOURCE_OF[kind]] += len(records)
    ends: dict[Source, list[End]] = {source: [] for source in Source}
    for end in sorted_.ends:
        ends[end.source].append(end)
    for source in Source:
        if source in declined:
            if counts[source] or ends[source]:
                yield source, f"{source} is declared absent, and {counts[source]} records of it are here"
        elif not ends[source]:
            yield source, f"{source} has no end: it was not written completely ({counts[source]} records)"
        elif len(ends[source]) > 1:
            yield source, f"{source} has {len(ends[source])} ends"
        elif ends[source][0].record_count != counts[source]:
            said = ends[source][0].record_count
            yield source, f"{source} says it wrote {said} records, and {counts[source]} are here"
