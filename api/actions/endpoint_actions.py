"""The use cases of endpoints together, as the routes need them; the small ones are here."""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Raw

from api.actions import endpoint_status
from api.actions.change_endpoint import ChangeEndpoints
from api.actions.create_endpoint import CreateEndpoints
from api.actions.endpoint_status import StatusAction
from api.actions.endpoint_writer import EndpointWriter
from api.actions.publish_event import PublishEvents
from api.actions.rotate_secret import RotateSecrets
from api.actions.verify_endpoint import VerifyEndpoints
from api.entity_tags import Precondition
from schemas.endpoint import Endpoint
from schemas.rest.endpoint import SendTest
from schemas.rest.event import PublishAnswer

TEST_TYPE: Final = "endpoint.test"
_encode = msgspec.json.Encoder().encode


class EndpointActions:
    """Everything that can be done to endpoints."""

    def __init__(
        self,
        *,
        writer: EndpointWriter,
        creates: CreateEndpoints,
        changes: ChangeEndpoints,
        rotates: RotateSecrets,
        verifies: VerifyEndpoints,
        publishes: PublishEvents,
        clock_ms: Callable[[], int],
    ) -> None:
        self.writer = writer
        self.creates = creates
        self.changes = changes
        self.rotates = rotates
        self.verifies = verifies
        self.clock_ms = clock_ms
        self._publishes = publishes

    async def set_status(
        self, endpoint_id: str, tenant_id: str | None, precondition: Precondition, action: StatusAction
    ) -> Endpoint:
        """Returns the endpoint after the action.

        Raises:
            ProblemError: `wrong_state`, `not_found`, `version_conflict`, `log_unavailable`.
        """
        return await self.writer.change(
            endpoint_id,
            tenant_id,
            precondition,
            lambda endpoint: endpoint_status.apply(endpoint, action, self.clock_ms()),
        )

    async def send_test(self, endpoint_id: str, tenant_id: str | None, body: SendTest) -> PublishAnswer:
        """Publishes an event for this endpoint alone; it goes the way of every event.

        Raises:
            ProblemError: `not_found`, `invalid_fields`, `log_unavailable`.
        """
        endpoint = self.writer.read(endpoint_id, tenant_id)
        data = _encode({"endpoint_id": endpoint.id, "message": "This is a test of your endpoint."})
        return await self._publishes.publish_for(endpoint, body.type or TEST_TYPE, Raw(data))
