"""Retry now and cancel: commands to the shard that owns a delivery; a retry of an ended one is a resend.

A command is a wish, and the shard decides: what the delivery log shows may be two seconds old. So a retry
carries the number of attempts that the caller saw, and counts only while it is still true; a cancel is always
applied, and one that comes after the end changes nothing. 202 means that the wish is durable and that it
stands behind everything the shard was told before.

A delivery that was accepted a moment ago may not have reached its shard, and a command that overtakes it
would find nothing there. So a command waits until the delivery log shows the delivery: then it stands in
`deliveries`, and the command stands behind it.
"""

from hashlib import blake2b
from typing import Final

import msgspec

from api.actions.read_history import ReadHistory
from api.actions.resend_delivery import ResendDeliveries
from api.auth import Principal
from api.idempotency import IdempotencyGate
from api.log_writes import LogWrites
from api.problems import ProblemError
from dataflows.connectors.log.port import Entry, TopicPartition
from schemas.command import Command, CommandKind
from schemas.delivery import FINAL_STATES, DeliveryState
from schemas.delivery_view import DeliveryView
from schemas.errors import LogUnavailable
from schemas.ids import partition_of
from schemas.problem_codes import ProblemCode
from schemas.rest.delivery import ActionAnswer, DeliveryAction, RetryDelivery
from schemas.topics import DELIVERIES
from schemas.wire.records import COMMAND

OPERATOR: Final = "admin"
_GATE_PREFIX: Final = "retry "  # with a space, which no key can hold: publishes have the same gate
_DIGEST_BYTES: Final = 16
_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(ActionAnswer).decode


class CommandDeliveries:
    """The use case, with what it needs.

    Args:
        shards: partitions of `deliveries`.
    """

    def __init__(
        self,
        history: ReadHistory,
        resends: ResendDeliveries,
        writes: LogWrites,
        gate: IdempotencyGate,
        *,
        shards: int,
    ) -> None:
        self._history = history
        self._resends = resends
        self._writes = writes
        self._gate = gate
        self._shards = shards

    async def cancel(self, by: Principal, tenant_id: str | None, delivery_id: str) -> ActionAnswer:
        """Asks the shard to cancel a delivery; one in flight is cancelled when its attempt fails.

        Raises:
            ProblemError: `not_found`, `wrong_state` (it has ended), `not_ready`, `log_unavailable`.
        """
        view = await self._history.recorded(tenant_id, delivery_id)
        if view.state in FINAL_STATES:
            raise _wrong_state(f"It has ended already: {view.state}.")
        await self._command(CommandKind.CANCEL, view, actor_of(by))
        return ActionAnswer(id=view.id, action=DeliveryAction.CANCEL)

    async def retry(
        self, by: Principal, tenant_id: str | None, delivery_id: str, body: RetryDelivery, key: str | None
    ) -> tuple[ActionAnswer, bool]:
        """Sends a delivery now: a waiting one earlier than planned, an ended one again, as a new delivery.

        Args:
            key: an idempotency key: a repeat gets the first answer, and nothing is sent twice.

        Returns:
            The answer, and whether it is a repeat.

        Raises:
            ProblemError: as `cancel`; `wrong_state` also for one that is about to be sent anyway, for another
                number of attempts than the caller saw, and for a disabled endpoint; `in_progress`,
                `idempotency_mismatch`.
        """
        view = await self._history.recorded(tenant_id, delivery_id)
        if key is None:
            return await self._retry(by, view, body, None), False
        said = f"{view.id} {body.attempt_count}".encode()
        digest = blake2b(said, digest_size=_DIGEST_BYTES).digest()

        async def make() -> bytes:
            return _encode(await self._retry(by, view, body, key))

        answer, is_repeat = await self._gate.run_once(view.tenant_id, _GATE_PREFIX + key, digest, make)
        return _decode_answer(answer), is_repeat

    async def _retry(
        self, by: Principal, view: DeliveryView, body: RetryDelivery, key: str | None
    ) -> ActionAnswer:
        seen = view.attempt_count if body.attempt_count is None else body.attempt_count
        if seen != view.attempt_count:
            raise _wrong_state(f"It has had {view.attempt_count} attempts, not {seen}; look at it again.")
        if view.state in FINAL_STATES:
            return await self._resends.resend(view, key)
        if view.state == DeliveryState.PENDING:
            raise _wrong_state(
                "Its first attempt has not ended yet; it is sent as soon as its endpoint takes it, so there"
                " is nothing to hasten."
            )
        await self._command(CommandKind.RETRY_NOW, view, actor_of(by), seen)
        return ActionAnswer(id=view.id, action=DeliveryAction.RETRY_NOW)

    async def _command(
        self, kind: CommandKind, view: DeliveryView, actor: str, attempt_count: int = 0
    ) -> None:
        command = Command(kind, view.id, view.endpoint_id, actor, attempt_count)
        to = TopicPartition(DELIVERIES.name, partition_of(view.endpoint_id, self._shards))
        try:
            await self._writes.append(to, [Entry(view.id.encode(), COMMAND.encode(command))])
        except LogUnavailable as error:
            raise ProblemError(
                ProblemCode.LOG_UNAVAILABLE,
                "It is not known whether the request was taken. Send it again: twice does what once does.",
                headers={"Retry-After": "1"},
            ) from error


def actor_of(by: Principal) -> str:
    """Returns who is named in the log for what was asked."""
    return OPERATOR if by.tenant_id is None else by.tenant_id


def _wrong_state(detail: str) -> ProblemError:
    return ProblemError(ProblemCode.WRONG_STATE, detail)
