"""A small client of the REST API, for the commands of `deploy/cli`."""
