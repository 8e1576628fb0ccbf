"""Listing endpoints: by tenant, status and URL, in order of age, a page at a time."""

from typing import Final

from msgspec import Struct

from api.endpoint_view import EndpointView
from api.pages import PageRequest
from operators.matching import matches
from operators.target_url import TargetUrl, check_target_url
from schemas.endpoint import Endpoint, EndpointStatus

LOOKED_AT_MAX: Final = 20_000
"""Endpoints that one page looks at, about 20 ms; a filter that few pass ends its page early."""


class EndpointFilter(Struct, frozen=True):
    """Which endpoints are listed; None means any.

    Attributes:
        event_type: only those that an event of this type would go to.
        url: only those with this URL, however it is spelled.
    """

    tenant_id: str | None = None
    status: EndpointStatus | None = None
    event_type: str | None = None
    url: str | None = None

    def takes(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint is listed."""
        return (
            (self.status is None or endpoint.status is self.status)
            and (self.url is None or endpoint.url == self.url)
            and (self.event_type is None or matches(endpoint.event_types, self.event_type))
        )


def normal_form_of(url: str | None) -> str | None:
    """Returns a URL as endpoints keep it; what is no URL is returned as it is, and found nowhere."""
    read = None if url is None else check_target_url(url, allow_private=True)
    return read.url if isinstance(read, TargetUrl) else url


class EndpointPage(Struct, frozen=True):
    """A page; `after` is where the next one begins, None when there is none."""

    endpoints: list[Endpoint]
    after: str | None


async def list_endpoints(view: EndpointView, wanted: EndpointFilter, page: PageRequest) -> EndpointPage:
    """Returns a page of the endpoints that the filter takes, oldest first."""
    await view.catch_up()
    listed: list[Endpoint] = []
    last = page.after
    for looked_at, endpoint_id in enumerate(view.list_ids(wanted.tenant_id, page.after)):
        if looked_at >= LOOKED_AT_MAX:
            return EndpointPage(listed, last)
        endpoint = view.peek(endpoint_id)
        if endpoint is not None and wanted.takes(endpoint):
            if len(listed) == page.limit:
                return EndpointPage(listed, last)
            listed.append(endpoint)
        last = endpoint_id
    return EndpointPage(listed, None)
