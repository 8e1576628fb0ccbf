"""What an event is called: its own id, else what its idempotency key names, else its position in the log.

`route` and `record` read the same records apart from each other and must say the same name, so they both
ask here.
"""

from schemas.event import Event
from schemas.ids import event_id_from_key, event_id_from_position


def identify(event: Event, cluster_id: str, topic: str, partition: int, offset: int) -> str:
    """Returns the event's id; the same for every reader of the record, at any time.

    Args:
        cluster_id, topic, partition, offset: where the record stands; used only without id and key.
    """
    if event.id:
        return event.id
    if event.idempotency_key:
        return event_id_from_key(event.tenant_id, event.idempotency_key)
    return event_id_from_position(cluster_id, topic, partition, offset)
