"""The API as methods: one for each thing that a command asks for.

Documents come back as the API wrote them, so that `--json` can print them; `deploy.client.answers` is for
whoever wants to read them.
"""

import json
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from deploy.client.connection import Answer, Connection
from schemas.errors import BadInput

Document = dict[str, Any]

ENDPOINTS: Final = "/webhooks/endpoints"
PAGE_MAX: Final = 200
NEW_TENANT: Final = "default"
"""Who owns the first endpoint, when nobody says."""


class HooktideApi:
    """The API.

    Args:
        tenant: the limit of reads and the owner of what is made; None: no limit, and the only one there is.
    """

    def __init__(self, connection: Connection, tenant: str | None = None) -> None:
        self.connection = connection
        self.tenant = tenant or None

    def get(self, path: str, **parameters: str | int | None) -> Document:
        """Reads one document."""
        return self._document(self.connection.ask("GET", path, parameters=self._limited(parameters)))

    def act(
        self,
        path: str,
        body: Document | None = None,
        *,
        method: str = "POST",
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> Document:
        """Asks for a change of something that is there.

        Args:
            path: of the thing, with the action.
            if_match: an entity tag; the change is made only while it holds.
        """
        headers = {"If-Match": if_match} if if_match else {}
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        raw = None if body is None else json.dumps(body).encode()
        answer = self.connection.ask(method, path, parameters=self._limited({}), body=raw, headers=headers)
        return self._document(answer)

    def pages(self, path: str, limit: int | None, **parameters: str | None) -> Iterator[Document]:
        """Yields the entries of a list, page after page, at most `limit` of them; None: all."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            wanted = PAGE_MAX if left is None else min(left, PAGE_MAX)
            page = self.get(path, **parameters, limit=wanted, cursor=cursor)
            data = page.get("data", [])
            yield from data
            cursor = page.get("next_cursor")
            if cursor is None:
                return
            left = None if left is None else left - len(data)

    def create_endpoint(self, fields: Document) -> Document:
        """Makes an endpoint; the answer holds its secret, this once."""
        body = json.dumps({"tenant_id": self.owner(), **fields}).encode()
        return self._document(self.connection.ask("POST", ENDPOINTS, body=body))

    def publish(
        self, event_type: str, data: bytes, *, key: str | None = None, endpoint: str | None = None
    ) -> Document:
        """Publishes an event.

        Args:
            data: JSON; its bytes are sent as they are.
            key: the idempotency key.
            endpoint: the only one that gets it, whatever it subscribed to.
        """
        if endpoint is not None and self.tenant is None:
            owner = str(self.get(one(ENDPOINTS, endpoint))["tenant_id"])
        else:
            owner = self.owner()
        head: Document = {"tenant_id": owner, "type": event_type}
        if endpoint is not None:
            head["endpoint_ids"] = [endpoint]
        # Put together as bytes: a number such as 1.10 must arrive as it was written.
        body = json.dumps(head).encode()[:-1] + b', "data": ' + data + b"}"
        headers = {"Idempotency-Key": key} if key else {}
        return self._document(self.connection.ask("POST", "/events", body=body, headers=headers))

    def owner(self) -> str:
        """Returns the tenant that new things belong to.

        Raises:
            BadInput: there are several, and nobody said which.
        """
        if self.tenant is None:
            page = self.get(ENDPOINTS, limit=PAGE_MAX)
            tenants = sorted({str(entry["tenant_id"]) for entry in page["data"]})
            if len(tenants) > 1 or page.get("next_cursor"):
                some = ", ".join(tenants[:5])
                raise BadInput(f"say for which tenant, with --tenant or HOOKTIDE_TENANT (there are {some})")
            self.tenant = tenants[0] if tenants else NEW_TENANT
        return self.tenant

    def _limited(self, parameters: dict[str, str | int | None]) -> dict[str, str | int | None]:
        return {"tenant_id": self.tenant, **parameters}

    def _document(self, answer: Answer) -> Document:
        document = answer.document
        return document if isinstance(document, dict) else {}


def one(collection: str, identifier: str, action: str = "") -> str:
    """Returns the path of one thing, or of an action on it."""
    return f"{collection}/{quote(identifier, safe='')}{f'/{action}' if action else ''}"
