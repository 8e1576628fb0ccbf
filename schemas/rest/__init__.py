"""The bodies of the REST API (pydantic), mapped by hand to and from the records."""
