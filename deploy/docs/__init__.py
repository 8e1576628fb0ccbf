"""The documentation site: the repository's own pages, put together and built."""
