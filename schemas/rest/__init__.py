"""The bodies of the REST API: requests in pydantic (it lists every mistake), answers in msgspec."""
